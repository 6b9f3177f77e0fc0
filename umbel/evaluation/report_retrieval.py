"""Retrieval in a report: query photographs and their nearest by code, drawn by a seed and not chosen by result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umbel.data.index import ShardSet
from umbel.evaluation.hashing import Codes, hamming_search, make_task
from umbel.evaluation.report_album import Album, same_photographs
from umbel.evaluation.report_html import Markup, aside, join, tag
from umbel.evaluation.report_rows import NEIGHBORS, one_of_each, row_of_photographs
from umbel.evaluation.report_words import percent
from umbel.random_stream import Purpose, stream

ROWS = 6
MEASURED = 1000


@dataclass(frozen=True, kw_only=True)
class Found:
    """Some queries with their nearest photographs."""

    queries: np.ndarray  # (Q,) int64 rows of the codes
    neighbors: np.ndarray  # (Q, k) int64 rows of the codes
    distances: np.ndarray  # (Q, k) bits that differ


def retrieval(codes: Codes, shards: ShardSet, *, seed: int) -> Markup:
    """Rows of pictures, or why there are none."""
    found = find(codes, seed=seed)
    if found is None:
        return aside("There are no retrieval rows: the codes have no labeled test photographs beside labeled others.")
    album = Album(shards)
    if not same_photographs(codes.provenance, codes.splits, shards) or not album.holds(codes.keys):
        return aside("There are no retrieval rows: the shards at hand hold other photographs than the codes.")
    right = codes.label[found.neighbors] == codes.label[found.queries][:, None]
    chosen = one_of_each(codes.label[found.queries])[:ROWS]
    rows = []
    for number in chosen:
        notes = [f"{bits} bit{'' if bits == 1 else 's'}" for bits in found.distances[number].tolist()]
        row = row_of_photographs(codes, album, int(found.queries[number]), found.neighbors[number].tolist(), notes)
        rows.append(row)
    among = (
        f"{len(found.queries):,} queries" if len(found.queries) == MEASURED else f"all {len(found.queries):,} queries"
    )
    summary = (
        f"Queries are test photographs, their neighbors train and val photographs with the fewest differing bits of "
        f"{codes.bits}. The rows are drawn by the seed, one of each species, not picked for their results: over "
        f"{among}, {percent(float(right.mean()))} of the first {right.shape[1]} neighbors are of the query's species. "
        f"The {len(codes):,} photographs have {len(np.unique(codes.packed, axis=0)):,} different codes."
    )
    return join(tag("p", summary), *rows)


def find(codes: Codes, *, seed: int) -> Found | None:
    """Search for MEASURED queries drawn by the seed; None without labeled queries or a labeled database."""
    task = make_task(codes.label, codes.split, codes.splits)
    if not len(task.queries) or not len(task.database):
        return None
    queries = stream(seed, 0, Purpose.ORDER).permutation(task.queries)[:MEASURED]
    distances, rows = hamming_search(codes.packed[queries], codes.packed[task.database], NEIGHBORS)
    return Found(queries=queries, neighbors=task.database[rows], distances=distances)
