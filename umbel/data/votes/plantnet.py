"""The Pl@ntNet aggregation: users gain weight with the species they get right, labels follow the weights, and round.

Source: "Cooperative learning of Pl@ntNet's Artificial Intelligence algorithm" (arXiv 2406.03356).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from umbel.data.votes.cells import Cells, Chooser, Floats, fixed_point
from umbel.data.votes.ids import Codes
from umbel.data.votes.machine import Joined, MachineConfig
from umbel.data.votes.species_counts import SpeciesCounts

Ending = Literal["settled", "2-cycle", "stopped", "one pass"]
"""How the rounds ended: weights unchanged, two states in turn, or too many; one pass where a strategy has none."""


@dataclass(frozen=True, kw_only=True)
class PlantnetConfig:
    """Thresholds of a valid observation, and the weight f(n) = n^alpha - n^beta + gamma of a user with n species."""

    theta_conf: float = 2.0
    """Least weight behind the label of a valid observation."""
    theta_acc: float = 0.7
    """Least share of the weight behind the label of a valid observation."""
    alpha: float = 0.5
    """Exponent of the growth."""
    beta: float = 0.2
    """Exponent of what is taken off, so that the first species count little; below alpha."""
    gamma: float = float(np.log(2.1))
    """Weight of a user without any species."""
    rounds: int = 100
    """Greatest number of rounds."""

    def __post_init__(self) -> None:
        if not 0 < self.theta_conf < float("inf"):
            raise ValueError(f"plantnet.theta_conf must be positive, not {self.theta_conf:g}")
        if not 0 < self.theta_acc < 1:
            raise ValueError(f"plantnet.theta_acc must lie between 0 and 1, not be {self.theta_acc:g}")
        if not 0 < self.beta <= self.alpha <= 1:
            raise ValueError(f"plantnet must have 0 < beta <= alpha <= 1, not alpha {self.alpha:g}, beta {self.beta:g}")
        if not 0 < self.gamma < float("inf"):
            raise ValueError(f"plantnet.gamma must be positive, not {self.gamma:g}")
        if self.rounds < 1:
            raise ValueError(f"plantnet.rounds must be at least 1, not {self.rounds}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a strategy found; the machine, where it votes, is the last user."""

    chosen: NDArray[np.int64]
    """(N,) the cell of each observation's label; -1: none."""
    tie: NDArray[np.bool_]
    """(N,) whether another cell weighed as much."""
    valid: NDArray[np.bool_]
    """(N,)"""
    conf: Floats
    """(N,)"""
    acc: Floats
    """(N,)"""
    sums: Floats
    """(C,) the weight of each cell."""
    weight: Floats
    """(U,)"""
    n_author: NDArray[np.int64]
    """(U,)"""
    n_vote: NDArray[np.int64]
    """(U,)"""
    rounds: int = 1
    ending: Ending = "one pass"


def f(n: NDArray[np.int64] | Floats, config: PlantnetConfig) -> Floats:
    """The weight of users with n species, (U,)."""
    # A table of the numbers that occur: powers are slow, and users share few numbers.
    steps = np.arange(int(n.max(initial=0)) + 1, dtype=np.float64)
    table: Floats = steps**config.alpha - steps**config.beta + config.gamma
    return table[n.astype(np.int64)]


def tenths(n_vote: NDArray[np.int64]) -> NDArray[np.int64]:
    """n_vote / 10, rounded half to even, in integers."""
    whole, rest = np.divmod(n_vote, 10)
    up = (rest > 5) | ((rest == 5) & (whole % 2 == 1))
    rounded: NDArray[np.int64] = whole + up
    return rounded


def plantnet(joined: Joined, cells: Cells, choose: Chooser, config: PlantnetConfig, machine: MachineConfig) -> Outcome:
    """Alternate labels and weights until the weights stop changing.

    A state is a function of the weights alone, so weights that come back after two rounds would do so for ever: the
    later of the two states is returned.
    """
    votes = joined.votes
    count = SpeciesCounts(votes)
    before: Floats | None = None
    now = fixed_point(with_machine(np.full(votes.voters, config.gamma), joined))
    ending: Ending = "stopped"
    done = 0
    while done < config.rounds:
        done += 1
        sums = cells.sums(now[votes.user])
        chosen, tie = choose(sums)
        conf, acc, valid = judge(sums, cells, chosen, joined, config, machine)
        n_author, n_vote = count(cells.of_vote == chosen[votes.observation], valid)
        weight = fixed_point(with_machine(f(n_author + tenths(n_vote), config), joined))
        if np.array_equal(weight, now):
            ending = "settled"
            break
        if before is not None and np.array_equal(weight, before):
            ending = "2-cycle"
            break
        before, now = now, weight
    if ending != "settled":
        sums = cells.sums(weight[votes.user])
        chosen, tie = choose(sums)
        conf, acc, valid = judge(sums, cells, chosen, joined, config, machine)
    return Outcome(
        chosen=chosen, tie=tie, valid=valid, conf=conf, acc=acc, sums=sums, weight=weight,
        n_author=n_author, n_vote=n_vote, rounds=done, ending=ending,
    )  # fmt: skip


def with_machine(weight: Floats, joined: Joined) -> Floats:
    """The users' weights, the machine's as it is pinned."""
    if joined.pinned is not None:
        weight[-1] = joined.pinned
    return weight


def judge(
    sums: Floats,
    cells: Cells,
    chosen: NDArray[np.int64],
    joined: Joined,
    config: PlantnetConfig,
    machine: MachineConfig,
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """conf, acc and valid of the chosen cells, (N,) each; an observation without a label has conf 0."""
    conf = np.where(chosen >= 0, sums[chosen], 0.0)
    total = cells.totals(sums)
    acc = conf / total
    valid = (acc >= config.theta_acc) & (conf >= config.theta_conf)
    if joined.invalidator is not None:
        conf, acc = invalidated(conf, total, cells.label_of(chosen), joined.invalidator, machine.weight)
        valid &= (acc >= config.theta_acc) & (conf >= config.theta_conf)
    return conf, acc, valid


def invalidated(conf: Floats, total: Floats, label: Codes, says: Codes, weight: float) -> tuple[Floats, Floats]:
    """conf and acc with the weight of a machine that says `says`, (N,), where it says something."""
    conf = conf + weight * ((says == label) & (says >= 0))
    return conf, conf / (total + weight * (says != -1))
