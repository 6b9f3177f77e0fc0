"""The order of samples: a pure function of (seed, epoch, shard sizes), read through a cursor that is one integer.

The cursor counts samples consumed by the whole job; epochs are concatenated, so the remainder of N mod G opens the next
epoch's first batch. Rank, worker and accumulation only decide who reads which slice of a global batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from umbel.random_stream import Purpose, stream


def epoch_order(counts: np.ndarray, *, seed: int, epoch: int, window: int, set_number: int = 0) -> np.ndarray:
    """The samples of an epoch in order: shards permuted, then samples permuted within windows of `window` shards.

    Args:
        counts: (S,) samples in each shard; sample numbers run through the shards.
        window: shards whose samples mix; bounds how many files are open at a time.
        set_number: sets that are mixed have orders of their own.

    Returns:
        (N,) int64, a permutation of 0 .. N - 1.
    """
    generator = stream(seed, epoch, Purpose.ORDER, view=set_number)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    shards = generator.permutation(len(counts))
    parts = []
    for first in range(0, len(shards), window):
        pool = [np.arange(starts[s], starts[s] + counts[s]) for s in shards[first : first + window]]
        parts.append(generator.permutation(np.concatenate(pool)))
    return np.concatenate(parts).astype(np.int64)


def epoch_windows(counts: np.ndarray, *, seed: int, epoch: int, window: int, set_number: int = 0) -> list[np.ndarray]:
    """The shards of each window of `epoch_order`, in order."""
    shards = stream(seed, epoch, Purpose.ORDER, view=set_number).permutation(len(counts))
    return [shards[first : first + window] for first in range(0, len(shards), window)]


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Who reads what of a global batch: micro-step a of rank r takes rows [(a W + r) b, (a W + r + 1) b)."""

    micro_batch: int
    rank: int = 0
    world_size: int = 1
    accumulation: int = 1

    @property
    def global_batch(self) -> int:
        """G = micro-batch x ranks x accumulation."""
        return self.micro_batch * self.world_size * self.accumulation

    def rows(self, micro_step: int) -> range:
        """This rank's rows of the global batch at a micro-step."""
        first = (micro_step * self.world_size + self.rank) * self.micro_batch
        return range(first, first + self.micro_batch)


class CursorSampler(Sampler[list[int]]):
    """Batches of cursors for a DataLoader: one list for each micro-step, from step `first` to step `last`.

    A cursor c stands for position c mod N of epoch c div N; the dataset turns it into a sample.
    """

    def __init__(self, slices: Slices, *, first: int, last: int) -> None:
        self.slices, self.first, self.last = slices, first, last

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            base = step * self.slices.global_batch
            for micro_step in range(self.slices.accumulation):
                yield [base + row for row in self.slices.rows(micro_step)]

    def __len__(self) -> int:
        return (self.last - self.first) * self.slices.accumulation


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How several sets share the cursor: by weight, as evenly as whole samples can be, in closed form.

    The cursor's places are dealt to the first set and the rest, the rest's to the second set and its rest, and so on.
    Each set counts its own places: its cursor, which runs through its own epochs.
    """

    shards: tuple[int, ...]
    """Shards of each set."""
    weights: tuple[int, ...]
    """Shares of the samples, up to a common factor."""
    epoch: int
    """Samples of an epoch of the whole."""

    def place(self, cursor: int) -> tuple[int, int]:
        """The set that reads at a cursor, and that set's own cursor."""
        rest = sum(self.weights)
        for number, weight in enumerate(self.weights):
            taken = cursor * weight // rest
            if (cursor + 1) * weight // rest > taken:
                return number, taken
            cursor, rest = cursor - taken, rest - weight
        raise AssertionError("the last set takes all that is left")
