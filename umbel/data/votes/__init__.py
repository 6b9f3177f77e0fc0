"""Crowd votes to training labels: the Pl@ntNet aggregation and the strategies that it is compared with.

from umbel.data.votes import aggregate
found = aggregate(observations, users, species, authors=authors)      # three columns, one row a vote
found.observation[found.valid], found.label[found.valid]
"""

from umbel.data.votes.aggregation import STRATEGIES, Aggregation, aggregate
from umbel.data.votes.machine import MachineConfig, MachineVotes
from umbel.data.votes.plantnet import PlantnetConfig

__all__ = ["STRATEGIES", "Aggregation", "MachineConfig", "MachineVotes", "PlantnetConfig", "aggregate"]
