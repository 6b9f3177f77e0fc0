"""Retrieval in a report: query photographs and their nearest by code, drawn by a seed and not chosen by result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from umbel.data.index import ShardSet
from umbel.data.reader import ShardReader
from umbel.evaluation.hashing import Codes, hamming_search, make_task
from umbel.evaluation.report_html import Markup, aside, figure, join, picture, tag
from umbel.evaluation.report_pictures import read
from umbel.evaluation.report_words import percent
from umbel.random_stream import Purpose, stream

ROWS, NEIGHBORS = 6, 5
MEASURED = 1000
SIDE = 160


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
    sample = {bytes(key).decode(): number for number, key in enumerate(shards.keys)}
    if not same_photographs(codes, shards) or not all(key in sample for key in codes.keys):
        return aside("There are no retrieval rows: the shards at hand hold other photographs than the codes.")
    right = codes.label[found.neighbors] == codes.label[found.queries][:, None]
    chosen = one_of_each(codes.label[found.queries])[:ROWS]
    reader = ShardReader(shards)
    rows = [_row(codes, reader, sample, found, number) for number in chosen]
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


def same_photographs(codes: Codes, shards: ShardSet) -> bool:
    """Whether the codes' provenance names these very shards; provenance without a fingerprint is believed."""
    told = codes.provenance.get("data")
    fingerprint = told.get("fingerprint") if isinstance(told, dict) else None
    if not {*codes.splits} <= {shard.split for shard in shards.shards}:
        return False
    return fingerprint in (None, shards.select(codes.splits).fingerprint())


def one_of_each(labels: np.ndarray) -> np.ndarray:
    """Places of the first of each label, in order; then the rest."""
    first = np.sort(np.unique(labels, return_index=True)[1])
    return np.concatenate([first, np.setdiff1d(np.arange(len(labels)), first)])


def _row(codes: Codes, reader: ShardReader, sample: dict[str, int], found: Found, number: int) -> Markup:
    query = int(found.queries[number])
    name = class_name(codes, query)
    cells = [_cell(codes, reader, sample, query, "query", f"Query {codes.keys[query]}: {name}.")]
    for neighbor, distance in zip(found.neighbors[number].tolist(), found.distances[number].tolist(), strict=True):
        verdict = "right" if codes.label[neighbor] == codes.label[query] else "wrong"
        bits = f"{distance} bit{'' if distance == 1 else 's'}"
        alt = f"Neighbor {codes.keys[neighbor]}: {class_name(codes, neighbor)}, {verdict}, {bits}."
        cells.append(_cell(codes, reader, sample, neighbor, verdict, alt, bits))
    return tag("div", *cells, class_="retrieved")


def _cell(
    codes: Codes, reader: ShardReader, sample: dict[str, int], row: int, kind: str, alt: str, bits: str = ""
) -> Markup:
    photograph = read(reader, sample[codes.keys[row]])
    if photograph is None:
        return figure(tag("span", "damaged"), alt, class_=kind)
    image = Image.fromarray(photograph.permute(1, 2, 0).numpy())
    image.thumbnail((2 * SIDE, 2 * SIDE))
    mark = {"query": "Query", "right": "✓ right", "wrong": "✗ wrong"}[kind]
    name = tag("i", class_name(codes, row))
    note = tag("span", f"{mark}, {bits}" if bits else mark, class_="mark")
    return figure(picture(image, alt), join(name, note, between=" "), class_=kind)


def class_name(codes: Codes, row: int) -> str:
    """The species of a photograph."""
    label = int(codes.label[row])
    return codes.classes[label] if 0 <= label < len(codes.classes) else f"class {label}"
