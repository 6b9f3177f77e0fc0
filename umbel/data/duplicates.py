"""Which photographs repeat others: byte for byte, or nearly, by perceptual hash.

Near pairs are found without comparing all with all: coarse hashes that differ in at most 7 of 64 bits differ in at most
one bit of one of four 16-bit quarters, so equal quarters, also with one bit turned, give all candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from umbel.data.perceptual_hash import COARSE_REACH

QUARTERS, QUARTER_BITS = 4, 16
CHUNK = 1 << 22  # candidate pairs compared at a time: some 200 MB


@dataclass(frozen=True, kw_only=True)
class Prints:
    """What photographs are recognized by."""

    digest: np.ndarray  # (N,) of 16 bytes: hash of the JPEG bytes
    coarse: np.ndarray  # (N,) uint64
    fine: np.ndarray  # (N, 4) uint64

    def __len__(self) -> int:
        return len(self.digest)

    def take(self, rows: np.ndarray) -> Prints:
        """Some of them."""
        return Prints(digest=self.digest[rows], coarse=self.coarse[rows], fine=self.fine[rows])


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Photographs that stand in a set already, each with one that it repeats."""

    photograph: np.ndarray  # (R,) int64, ascending
    original: np.ndarray  # (R,) int64
    distance: np.ndarray  # (R,) int64, fine bits that differ; -1: the bytes are the same

    def counts(self) -> tuple[int, int]:
        """How many repeat another byte for byte, and how many nearly."""
        same = int((self.distance < 0).sum())
        return same, len(self.distance) - same


def repeats_within(prints: Prints, *, distance: int) -> Repeats:
    """Photographs that repeat an earlier one of the same set.

    Args:
        distance: fine bits (of 256) in which near duplicates may differ.
    """
    first, group = _first_of_group(prints.digest)
    copies = np.flatnonzero(first[group] != np.arange(len(prints)))
    originals = np.sort(first)
    rows, near, differ = _nearest(prints.take(originals), prints.take(originals), distance, earlier=True)
    return _repeats(
        np.concatenate([copies, originals[rows]]),
        np.concatenate([first[group[copies]], originals[near]]),
        np.concatenate([np.full(len(copies), -1), differ]),
    )


def repeats_between(prints: Prints, others: Prints, *, distance: int) -> Repeats:
    """Photographs of one set that stand in another too; `original` counts in the other."""
    known, first = np.unique(others.digest, return_index=True)
    place = np.searchsorted(known, prints.digest).clip(max=max(len(known) - 1, 0))
    same = known[place] == prints.digest if len(known) else np.zeros(len(prints), bool)
    copies, rest = np.flatnonzero(same), np.flatnonzero(~same)
    rows, near, differ = _nearest(prints.take(rest), others, distance, earlier=False)
    return _repeats(
        np.concatenate([copies, rest[rows]]),
        np.concatenate([first[place[copies]], near]),
        np.concatenate([np.full(len(copies), -1), differ]),
    )


def _repeats(photograph: np.ndarray, original: np.ndarray, distance: np.ndarray) -> Repeats:
    order = np.argsort(photograph, kind="stable")
    return Repeats(photograph=photograph[order], original=original[order], distance=distance[order])


def _first_of_group(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of every distinct value, by value, and which value each row has."""
    _, first, group = np.unique(values, return_index=True, return_inverse=True)
    return first, group


def _nearest(
    queries: Prints, base: Prints, distance: int, *, earlier: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every query that has near duplicates in `base`, the nearest (of equals the first) and how far it is.

    Args:
        earlier: the two are the same set, and only rows before a query's own count.
    """
    # Thousands of empty pictures share one hash: each hash is compared once, and its rows share the answer.
    hashes, base_first, base_group = _distinct(base)
    asked, asked_first, asked_group = (hashes, base_first, base_group) if earlier else _distinct(queries)
    best = np.full(len(asked), distance + 1, dtype=np.int64)
    match = np.full(len(asked), len(base), dtype=np.int64)
    for q, b in _candidates(asked.coarse, hashes.coarse):
        keep = asked_first[q] > base_first[b] if earlier else np.ones(len(q), bool)
        keep &= np.bitwise_count(asked.coarse[q] ^ hashes.coarse[b]) <= COARSE_REACH
        q, b = q[keep], b[keep]
        differ = np.bitwise_count(asked.fine[q] ^ hashes.fine[b]).sum(1).astype(np.int64)
        row = base_first[b]
        order = np.lexsort((row, differ, q))
        q, differ, row = q[order], differ[order], row[order]
        nearest = np.flatnonzero(np.diff(q, prepend=-1))
        q, differ, row = q[nearest], differ[nearest], row[nearest]
        better = (differ < best[q]) | ((differ == best[q]) & (row < match[q]))
        best[q[better]], match[q[better]] = differ[better], row[better]
    rows = np.arange(len(queries))
    found, far = match[asked_group], best[asked_group]
    if earlier:
        head = asked_first[asked_group]
        again = (head != rows) & ((far > 0) | (head < found))
        found, far = np.where(again, head, found), np.where(again, 0, far)
    chosen = np.flatnonzero(far <= distance)
    return chosen, found[chosen], far[chosen]


def _distinct(prints: Prints) -> tuple[Prints, np.ndarray, np.ndarray]:
    """Photographs of distinct hashes, the first row of each, and which of them each row has."""
    whole = np.column_stack([prints.coarse, prints.fine])
    rows = np.ascontiguousarray(whole).view(np.dtype((np.void, whole.shape[1] * 8))).ravel()
    first, group = _first_of_group(rows)
    return prints.take(first), first, group


def _candidates(queries: np.ndarray, base: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (rows of queries, rows of base) with a quarter that differs in at most one bit, CHUNK or so at a time."""
    turned = [0, *(1 << bit for bit in range(QUARTER_BITS))]
    for quarter in range(QUARTERS):
        mine = _quarter(queries, quarter)
        order = np.argsort(_quarter(base, quarter), kind="stable")
        starts = np.searchsorted(_quarter(base, quarter)[order], np.arange((1 << QUARTER_BITS) + 1))
        for bits in turned:
            low, high = starts[mine ^ bits], starts[(mine ^ bits) + 1]
            yield from _expand(low, high, order)


def _quarter(hashes: np.ndarray, quarter: int) -> np.ndarray:
    shift = np.uint64(quarter * QUARTER_BITS)
    return ((hashes >> shift) & np.uint64((1 << QUARTER_BITS) - 1)).astype(np.int64)


def _expand(low: np.ndarray, high: np.ndarray, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every query with the rows of its range [low, high) of `order`."""
    ends = np.cumsum(high - low)
    first = 0
    while first < len(low):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + CHUNK, side="right")))
        length = (high - low)[first:last]
        query = np.repeat(np.arange(first, last), length)
        within = np.arange(len(query)) - np.repeat(ends[first:last] - length - done, length)
        yield query, order[low[first:last][query - first] + within]
        first = last
