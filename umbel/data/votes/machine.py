"""Votes of a machine: five ways of counting them, each adding the machine's weight once to an observation.

Source: the machine's role in Pl@ntNet's aggregation (arXiv 2406.03356).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from umbel.data.votes.encoded import Votes, sorted_by_observation
from umbel.data.votes.ids import Codes, factorize, places, refuse_repeats

MachineMode = Literal["ignored", "user", "fixed", "invalidating", "confident"]


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """How a machine's votes count."""

    mode: MachineMode = "ignored"
    """ignored; user: a weight learned like a person's (the machine then confirms itself); fixed: `weight` in vote, conf
    and acc; invalidating: `weight` in conf and acc, which can only turn valid off; confident: fixed, where its score
    is high enough."""
    weight: float = 1.70
    """Weight of the machine's vote; below theta_conf, or the machine alone would make an observation valid, and above
    theta_conf (1 - theta_acc) / theta_acc, or it could never make one invalid."""
    threshold: float = 0.7
    """Lowest score at which the confident machine votes."""
    any_weight: bool = False
    """Take a weight outside these bounds."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(MachineMode):
            raise ValueError(f"machine.mode must be one of {', '.join(get_args(MachineMode))}, not '{self.mode}'")
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"machine.weight must be positive, not {self.weight:g}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"machine.threshold must lie between 0 and 1, not {self.threshold:g}")

    def check_weight(self, theta_conf: float, theta_acc: float) -> None:
        """Refuse a weight that breaks the thresholds.

        Raises:
            ValueError: the weight counts and is out of bounds.
        """
        least = theta_conf * (1 - theta_acc) / theta_acc
        if self.mode in ("ignored", "user") or self.any_weight or least < self.weight < theta_conf:
            return
        raise ValueError(
            f"machine.weight must lie between {least:.3f} and {theta_conf:g} (theta_conf (1 - theta_acc) / theta_acc "
            f"and theta_conf), not be {self.weight:g}; machine.any-weight takes it all the same"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MachineVotes:
    """What a machine said, by observation; rows need not be those of the votes."""

    observations: Any
    """(M,) ids, each once."""
    labels: Any
    """(M,) ids of species."""
    scores: Any = None
    """Scores, 0 to 1, (M,), or by observation: a mapping, or a pair of columns. The confident mode needs them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """Votes of people with those of the machine."""

    votes: Votes
    """With the machine's as those of user U, where it votes."""
    pinned: float | None = None
    """The machine's weight where it votes and learns none."""
    invalidator: Codes | None = None
    """(N,) the species that the invalidating machine says; -1: none, -2: one that no person named."""


def join(votes: Votes, machine: MachineVotes | None, config: MachineConfig) -> Joined:
    """Join a machine's votes to people's by observation.

    Raises:
        ValueError: no machine votes, or no scores, where the mode needs them; an observation with two; species of
            another kind than those of the votes.
    """
    if config.mode == "ignored":
        return Joined(votes=votes)
    if machine is None:
        raise ValueError(f"machine.mode {config.mode} needs a machine's votes")
    if len(machine.observations) != len(machine.labels):
        raise ValueError(f"the machine has {len(machine.observations)} observations and {len(machine.labels)} species")
    row = places(machine.observations, votes.observations)
    keep = row >= 0
    known = row[keep]
    refuse_repeats(row, votes.observations, "machine vote")
    counts = votes.counts | {"machine votes on observations without votes": int(np.count_nonzero(~keep))}
    if config.mode == "confident":
        sure = _scores(machine, votes)[known] >= config.threshold
        keep[keep] = sure
        known = known[sure]
        counts |= {"machine votes below the threshold": int(np.count_nonzero(~sure))}
    said, code = factorize(machine.labels, "machine's species")
    if said.dtype != votes.labels.dtype and len(said):
        raise ValueError("the machine's species are numbers and those of the votes text, or the other way round")
    code = code[keep]
    if config.mode == "invalidating":
        named = places(said, votes.labels)[code]
        says = np.full(len(votes.observations), -1, dtype=np.int32)
        says[known] = np.where(named >= 0, named, -2)
        return Joined(votes=dataclasses.replace(votes, counts=counts), invalidator=says)
    used, place = np.unique(code, return_inverse=True)
    labels, merged = factorize(np.concatenate([votes.labels, said[used]]), "species")
    joined = dataclasses.replace(
        votes,
        observation=np.concatenate([votes.observation, known]),
        user=np.concatenate([votes.user, np.full(len(known), len(votes.users), dtype=np.int32)]),
        label=np.concatenate([merged[: len(votes.labels)][votes.label], merged[len(votes.labels) :][place]]),
        labels=labels,
        counts=counts,
        machine=True,
    )
    return Joined(votes=sorted_by_observation(joined), pinned=None if config.mode == "user" else config.weight)


def _scores(machine: MachineVotes, votes: Votes) -> NDArray[np.float64]:
    """(N,) the machine's score on each observation; nan where there is none."""
    if machine.scores is None:
        raise ValueError("machine.mode confident needs the machine's scores")
    if isinstance(machine.scores, Mapping):
        ids, values = list(machine.scores), list(machine.scores.values())
    elif isinstance(machine.scores, tuple):
        ids, values = machine.scores
    else:
        ids, values = machine.observations, machine.scores
        if len(values) != len(ids):
            raise ValueError(f"the machine has {len(ids)} votes and {len(values)} scores")
    score = np.full(len(votes.observations), np.nan)
    row = places(ids, votes.observations)
    score[row[row >= 0]] = np.asarray(values, dtype=np.float64)[row >= 0]
    return score
