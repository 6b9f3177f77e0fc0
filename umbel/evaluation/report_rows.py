"""A query photograph and its nearest ones in a row, right and wrong marked by sign, word, line and color."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from umbel.evaluation.report_album import Album, class_name
from umbel.evaluation.report_html import Markup, join, tag

NEIGHBORS = 5
SIDE = 240


class Labeled(Protocol):
    """Photographs with keys and labels: embeddings, or codes."""

    @property
    def label(self) -> np.ndarray: ...  # (N,) int64

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...


def row_of_photographs(
    photographs: Labeled, album: Album, query: int, neighbors: Sequence[int], notes: Sequence[str]
) -> Markup:
    """The query's photograph, then its neighbors'.

    Args:
        query, neighbors: rows of the photographs.
        notes: what stands behind the verdict of each neighbor: how near it is.
    """
    name = class_name(photographs.classes, int(photographs.label[query]))
    alt = f"Query {photographs.keys[query]}: {name}."
    cells = [album.cell(photographs.keys[query], alt, _caption(name, "Query"), side=SIDE, kind="query")]
    for neighbor, note in zip(neighbors, notes, strict=True):
        kind = "right" if photographs.label[neighbor] == photographs.label[query] else "wrong"
        name = class_name(photographs.classes, int(photographs.label[neighbor]))
        alt = f"Neighbor {photographs.keys[neighbor]}: {name}, {kind}, {note}."
        mark = f"{'✓' if kind == 'right' else '✗'} {kind}, {note}"
        cells.append(album.cell(photographs.keys[neighbor], alt, _caption(name, mark), side=SIDE, kind=kind))
    return tag("div", *cells, class_="retrieved")


def _caption(name: str, mark: str) -> Markup:
    return join(tag("i", name), tag("span", mark, class_="mark"), between=" ")


def one_of_each(labels: np.ndarray) -> np.ndarray:
    """Places of the first of each label, in order; then the rest."""
    first = np.sort(np.unique(labels, return_index=True)[1])
    return np.concatenate([first, np.setdiff1d(np.arange(len(labels)), first)])
