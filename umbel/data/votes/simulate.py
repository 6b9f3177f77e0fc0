"""A simulated crowd: authors with observations of long-tailed species, experts, novices, spammers, colluding groups.

Every author votes first; most observations have no other vote, as in Pl@ntNet-CrowdSWE (Zenodo 10782465).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("novice", "expert", "spammer", "colluder")
NOVICE, EXPERT, SPAMMER, COLLUDER = range(4)
LOOK_ALIKES = 5
MOST = 100_000_000
"""Observations, users or species: more than any crowd has, and fewer than memory would end with."""
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CrowdConfig:
    """The size of a crowd and who is in it."""

    observations: int = 60_000
    """Photographs of plants, each with an author who votes."""
    users: int = 7_000
    """Users; how much they do is long-tailed, and the more a novice does, the better."""
    species: int = 1_500
    """Species, long-tailed too."""
    extra_votes: float = 0.35
    """Mean number of votes by others on an observation."""
    experts: float = 0.002
    """Share of users who are experts: very active and nearly always right."""
    spammers: float = 0.02
    """Share of users who vote for common species without looking."""
    colluders: float = 0.02
    """Share of users in groups whose members confirm each other's votes, right or wrong."""
    group: int = 5
    """Members of a colluding group."""
    seed: int = 0
    """Seed of everything."""

    def __post_init__(self) -> None:
        for name, least in (("observations", 1), ("users", 1), ("species", LOOK_ALIKES + 1), ("group", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("observations", "users", "species"):
            if getattr(self, name) > MOST:
                raise ValueError(f"{name} must be at most {MOST:,}, not {getattr(self, name)}")
        if not 0 <= self.extra_votes <= 100:
            raise ValueError(f"extra_votes must lie between 0 and 100, not be {self.extra_votes:g}")
        shares = (self.experts, self.spammers, self.colluders)
        if not (all(share >= 0 for share in shares) and sum(shares) <= 1):
            raise ValueError("experts, spammers and colluders are shares of the users, together at most 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Crowd:
    """Simulated votes and the truth behind them; ids are places."""

    observation: Ints
    """(V,) sorted; an author's vote comes first."""
    user: Ints
    """(V,)"""
    label: Ints
    """(V,)"""
    author: Ints
    """(N,)"""
    truth: Ints
    """(N,)"""
    machine: Ints
    """(N,) what a classifier says."""
    score: NDArray[np.float64]
    """(N,) how sure it is, 0 to 1."""
    kind: Ints
    """(U,) place in KINDS."""
    ability: NDArray[np.float64]
    """(U,) log odds of being right on an observation of mean difficulty."""


def simulate(config: CrowdConfig, truth: NDArray[Any] | None = None) -> Crowd:
    """Simulate a crowd.

    Args:
        truth: (N,) the species of given observations, 0 .. species - 1; drawn where it is not given.

    Raises:
        ValueError: a truth of another length than `observations`, or out of range.
    """
    random = np.random.default_rng(config.seed)
    ranks = np.arange(config.species, dtype=np.float64) + 3.0
    shares: NDArray[np.float64] = 1.0 / ranks / (1.0 / ranks).sum()
    size = config.observations
    species = random.choice(config.species, size, p=shares) if truth is None else np.asarray(truth, dtype=np.int64)
    if species.shape != (size,) or species.min() < 0 or species.max() >= config.species:
        raise ValueError(f"truth must be of shape ({size},) and hold 0 .. {config.species - 1}")
    kind = _kinds(random, config)
    activity = _activity(random, kind)
    ability = _ability(random, kind, activity)
    difficulty = random.normal(0.0, 1.2, size)
    people = _Voting(random, species, difficulty, ability, kind, shares)

    author = random.choice(config.users, size, p=activity / activity.sum())
    first = people.votes(np.arange(size), author)
    claimed = (kind[author] == COLLUDER) & (random.random(size) < 0.5)
    first[claimed] = random.choice(config.species, np.count_nonzero(claimed), p=shares)

    # What looks wrong draws votes: three times as many come to an observation whose author errs.
    wanted = np.where(first == species, 1.0, 3.0)
    others = random.poisson(config.extra_votes * wanted / wanted.mean())
    observation = np.repeat(np.arange(size), others)
    voting = activity * np.where(kind == EXPERT, 4.0, 1.0)
    user = random.choice(config.users, len(observation), p=voting / voting.sum())
    label = people.votes(observation, user)
    # Who does not know the plant often confirms what is said already.
    follows = (label != species[observation]) & (kind[user] == NOVICE) & (random.random(len(label)) < 0.5)
    label[follows] = first[observation[follows]]

    allied, ally = _allies(random, config, kind, author)
    columns = (
        np.concatenate([np.arange(size), allied, observation]),
        np.concatenate([author, ally, user]),
        np.concatenate([first, first[allied], label]),
    )
    machine, score = _machine(random, species, difficulty, people)
    return Crowd(
        **dict(zip(("observation", "user", "label"), _one_vote_each(*columns, config.users), strict=True)),
        author=author, truth=species, machine=machine, score=score, kind=kind, ability=ability,
    )  # fmt: skip


def _kinds(random: np.random.Generator, config: CrowdConfig) -> Ints:
    kind = np.full(config.users, NOVICE)
    order = random.permutation(config.users)
    counts = [round(share * config.users) for share in (config.experts, config.spammers, config.colluders)]
    ends = np.cumsum([0, *counts])
    for name, first, last in zip((EXPERT, SPAMMER, COLLUDER), ends[:-1], ends[1:], strict=True):
        kind[order[first:last]] = name
    return kind


def _activity(random: np.random.Generator, kind: Ints) -> NDArray[np.float64]:
    """How much each user does, in any unit: a power law without the few who would do everything."""
    activity = (1.0 + random.pareto(1.1, len(kind))).clip(max=300.0)
    return np.where(kind == EXPERT, 200.0 + activity, activity)


def _ability(random: np.random.Generator, kind: Ints, activity: NDArray[np.float64]) -> NDArray[np.float64]:
    ability = 0.8 + 0.8 * np.log(activity) + random.normal(0.0, 0.7, len(kind))
    ability = np.where(kind == EXPERT, random.normal(6.0, 0.5, len(kind)), ability.clip(max=4.5))
    return np.where(kind == SPAMMER, -np.inf, ability)


@dataclass(frozen=True, eq=False)
class _Voting:
    """How a user votes on an observation: right, or for one that looks alike, or (spammers) for a common species."""

    random: np.random.Generator
    truth: Ints
    difficulty: NDArray[np.float64]
    ability: NDArray[np.float64]
    kind: Ints
    shares: NDArray[np.float64]

    def votes(self, observation: Ints, user: Ints) -> Ints:
        """(V,) the species that each user names."""
        odds = np.exp(self.difficulty[observation] - self.ability[user])
        right = self.random.random(len(user)) < 1.0 / (1.0 + odds)
        label = np.where(right, self.truth[observation], self.mistaken(self.truth[observation]))
        spam = self.kind[user] == SPAMMER
        return np.where(spam, self.random.choice(len(self.shares), len(user), p=self.shares), label)

    def mistaken(self, species: Ints) -> Ints:
        """(V,) species that look like the given ones: those that stand next to them, in a circle."""
        step = self.random.integers(1, LOOK_ALIKES + 1, len(species))
        return (species + step) % len(self.shares)


def _allies(random: np.random.Generator, config: CrowdConfig, kind: Ints, author: Ints) -> tuple[Ints, Ints]:
    """Votes of a colluder's group on the colluder's observations: their observations and users."""
    members = np.flatnonzero(kind == COLLUDER)
    groups = np.full((-(-len(members) // config.group), config.group), -1)
    groups.flat[: len(members)] = members
    group_of = np.full(len(kind), -1)
    group_of[members] = np.arange(len(members)) // config.group
    observation = np.flatnonzero(group_of[author] >= 0)
    allies = groups[group_of[author[observation]]]
    votes = (allies >= 0) & (allies != author[observation, None]) & (random.random(allies.shape) < 0.8)
    row, column = np.nonzero(votes)
    return observation[row], allies[row, column]


def _machine(
    random: np.random.Generator, truth: Ints, difficulty: NDArray[np.float64], people: _Voting
) -> tuple[Ints, NDArray[np.float64]]:
    """A classifier that is right on four of five, and surer where it is."""
    right = random.random(len(truth)) < 1.0 / (1.0 + np.exp(difficulty - 1.7))
    score = np.where(right, random.beta(5.0, 2.0, len(truth)), random.beta(2.0, 3.0, len(truth)))
    return np.where(right, truth, people.mistaken(truth)), score


def _one_vote_each(observation: Ints, user: Ints, label: Ints, users: int) -> tuple[Ints, Ints, Ints]:
    """The first vote of each user on each observation, sorted by observation, authors first."""
    _, first = np.unique(observation * users + user, return_index=True)
    order = first[np.lexsort((first, observation[first]))]
    return observation[order], user[order], label[order]
