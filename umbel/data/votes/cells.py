"""Cells: the distinct (observation, species) pairs that have votes, their weights, and the choice of a label.

Weights are summed in fixed point, so that sums are exact: they do not depend on the order of the votes, equal sums are
ties, and a share of exactly theta is recognized as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from umbel.data.votes.encoded import Votes
from umbel.data.votes.ids import Codes, ordered

Floats = NDArray[np.float64]
Ties = Literal["lowest", "random", "abstain"]
FRACTION_BITS = 36
"""Weights are multiples of 2**-36 (1.5e-11): sums below 2**17 then fit a double's 53 bits."""


def fixed_point(weights: Floats) -> Floats:
    """Weights rounded to multiples of 2**-FRACTION_BITS."""
    return np.ldexp(np.rint(np.ldexp(weights, FRACTION_BITS)), -FRACTION_BITS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """The pairs, sorted by observation and species."""

    of_vote: Codes
    """(V,) each vote's cell."""
    observation: Codes
    """(C,)"""
    label: Codes
    """(C,)"""
    starts: NDArray[np.int64]
    """(N,) the first cell of each observation."""

    @classmethod
    def of(cls, votes: Votes) -> Cells:
        """The cells of votes that are sorted by observation, every observation having one or more."""
        of_vote, keys = pairs(votes.observation, votes.label, len(votes.labels))
        observation = (keys // len(votes.labels)).astype(np.int32)
        starts = np.flatnonzero(np.concatenate([[True], observation[1:] != observation[:-1]]))
        return cls(
            of_vote=of_vote,
            observation=observation,
            label=(keys % len(votes.labels)).astype(np.int32),
            starts=starts,
        )

    def sums(self, weights: Floats) -> Floats:
        """The weight of each cell, (C,), from the weight of each vote, (V,), added in the order of the votes."""
        return weighted_counts(self.of_vote, weights, len(self.label))

    def totals(self, sums: Floats) -> Floats:
        """The weight of each observation, (N,), from those of its cells."""
        totals: Floats = np.add.reduceat(sums, self.starts)
        return totals

    def label_of(self, chosen: NDArray[np.int64]) -> Codes:
        """The species of chosen cells; -1 where none is chosen."""
        return np.where(chosen >= 0, self.label[chosen], np.int32(-1))


def weighted_counts(codes: Codes, weights: Floats, size: int) -> Floats:
    """The sum of the weights of each code below `size`, added in their order."""
    sums: Floats = np.bincount(codes, weights=weights, minlength=size).astype(np.float64, copy=False)
    return sums


def pairs(first: Codes, second: Codes, count: int) -> tuple[Codes, NDArray[np.int64]]:
    """Each row's place among the distinct pairs, and the sorted pairs as first * count + second."""
    packed = first.astype(np.int64)
    packed *= count
    packed += second
    order, packed = ordered(packed, (int(first.max(initial=0)) + 1) * count)
    new = np.concatenate([[True], packed[1:] != packed[:-1]])
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.cumsum(new, dtype=np.int32) - np.int32(1)
    return place, packed[new]


class Chooser:
    """Chooses the heaviest cell of every observation, by a rule for ties.

    Observations with a single cell have no choice and are never looked at again.
    """

    def __init__(self, cells: Cells, ties: Ties, seed: int) -> None:
        if ties not in get_args(Ties):
            raise ValueError(f"ties must be one of {', '.join(get_args(Ties))}, not '{ties}'")
        self.ties = ties
        self.only = cells.starts.astype(np.int64)
        counts = np.diff(np.append(cells.starts, len(cells.label)))
        self.contested = np.flatnonzero(counts > 1)
        sizes = counts[self.contested]
        self.starts = np.cumsum(sizes) - sizes
        self.segment = np.repeat(np.arange(len(sizes)), sizes)
        self.cells = (
            np.arange(len(self.segment)) - self.starts[self.segment] + cells.starts[self.contested[self.segment]]
        )
        if ties == "random":
            # Each observation's cells in an order drawn once: the first of the heaviest is a random one, the same in
            # every round (weights would never settle otherwise).
            chance = np.random.default_rng(seed).random(len(self.segment))
            self.cells = self.cells[np.lexsort((chance, self.segment))]

    def __call__(self, sums: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The chosen cell of each observation and whether it was a tie.

        Args:
            sums: (C,) the weight of each cell.

        Returns:
            (N,) cells, -1 where the rule is to abstain; (N,) ties.
        """
        chosen, tied = self.only.copy(), np.zeros(len(self.only), dtype=bool)
        if not len(self.contested):
            return chosen, tied
        heaviest = self._heaviest(sums[self.cells])
        heavy = np.flatnonzero(heaviest)
        segment = self.segment[heavy]
        first = np.concatenate([[True], segment[1:] != segment[:-1]])
        tie = np.add.reduceat(heaviest, self.starts, dtype=np.int64) > 1
        picked = self.cells[heavy[first]]
        chosen[self.contested] = np.where(tie, -1, picked) if self.ties == "abstain" else picked
        tied[self.contested] = tie
        return chosen, tied

    def margin(self, sums: Floats, chosen: NDArray[np.int64]) -> Floats:
        """The weight of the chosen cell less that of the heaviest other, (N,); 0 where none is chosen."""
        margin = np.where(chosen >= 0, sums[chosen], 0.0)
        if len(self.contested):
            others = np.where(self.cells == chosen[self.contested][self.segment], -np.inf, sums[self.cells])
            best = np.maximum.reduceat(others, self.starts)
            margin[self.contested] = np.where(chosen[self.contested] >= 0, margin[self.contested] - best, 0.0)
        return margin

    def _heaviest(self, sums: Floats) -> NDArray[np.bool_]:
        best: NDArray[np.bool_] = sums == np.maximum.reduceat(sums, self.starts)[self.segment]
        return best
