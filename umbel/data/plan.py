"""Which shard every item of a split goes into, known before the first one is converted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from umbel.data.names import hash_of
from umbel.data.photograph_set import Photograph
from umbel.data.stream import stream_members
from umbel.run import UserError


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """A split's items: the n-th of `order` goes into shard n // shard_size, whenever it arrives."""

    split: str
    rows: Sequence[Any]
    """Items, or a sequence that makes them when asked."""
    order: Sequence[int] | np.ndarray
    """A permutation of the rows."""
    shard_size: int
    archive: Path | None = None
    """A tar that the items (Photographs) arrive from, in its own order; None: they arrive in `order`."""

    def name(self, rank: int) -> str:
        """The shard of the item at a place of the order."""
        return f"{self.split}-{rank // self.shard_size:06d}.tar"

    def shards(self) -> dict[str, int]:
        """The split's shards, with the number of items of each."""
        firsts = range(0, len(self.rows), self.shard_size)
        return {self.name(first): min(self.shard_size, len(self.rows) - first) for first in firsts}

    def items(self, skip: int = 0) -> Iterator[tuple[str, Any]]:
        """The items as they arrive, from the one after the first `skip`, each with its shard's name.

        Raises:
            UserError: the archive cannot be read to its end.
        """
        if self.archive is None:
            for rank in range(skip, len(self.rows)):
                yield self.name(rank), self.rows[int(self.order[rank])]
            return
        ranks = np.empty(len(self.rows), dtype=np.int64)
        ranks[np.asarray(self.order)] = np.arange(len(self.rows))
        for row, found in stream_members(self.archive, (item.path for item in self.rows), skip):
            yield self.name(int(ranks[row])), dataclasses.replace(self.rows[row], content=found)


def items_of(plan: Sequence[SplitPlan], skip: int) -> Iterator[tuple[str, Any]]:
    """The items of all splits, one split after the other, without the first `skip`."""
    for split in plan:
        passed = min(skip, len(split.rows))
        skip -= passed
        if passed < len(split.rows):
            yield from split.items(passed)


def shuffled(rows: Sequence[Photograph], seed: int) -> np.ndarray:
    """An order (N,) that mixes classes over the shards: a function of the keys and the seed.

    Raises:
        UserError: two photographs have the same key.
    """
    digests = np.fromiter((hash_of(f"{seed}/{row.key}") for row in rows), dtype=np.uint64, count=len(rows))
    order = np.argsort(digests, kind="stable")
    twice = np.flatnonzero(digests[order[1:]] == digests[order[:-1]])
    if len(twice):
        first, second = rows[int(order[twice[0]])], rows[int(order[twice[0] + 1])]
        raise UserError(f"{first} and {second} have the same key {first.key}: keys must be unique.")
    return order
