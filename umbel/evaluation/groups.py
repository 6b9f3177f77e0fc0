"""Accuracy of groups of queries: by how frequent their species is in the support, by the organ they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from umbel.evaluation.classification import micro
from umbel.evaluation.estimates import Estimate

THIRDS = ("head", "middle", "tail")


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One group of queries."""

    name: str
    classes: int
    count: int
    accuracy: Estimate


def by_frequency(truth: np.ndarray, right: np.ndarray, support: np.ndarray) -> list[GroupRow]:
    """Head, middle and tail: the species in thirds by their photographs in the support, the most frequent first.

    Species with equally many photographs are in one group: the cut moves to where the number changes. Nothing where
    all have equally many.

    Args:
        truth: (Q,) classes; right: (Q,) bool; support: (N,) classes of the support.
    """
    classes, counts = np.unique(support, return_counts=True)
    if counts.min() == counts.max():
        return []
    # A species' group follows from how many are more frequent than it.
    more = len(counts) - np.searchsorted(np.sort(counts), counts, side="right")
    group = np.full(int(max(classes.max(), truth.max())) + 1, -1)
    group[classes] = np.minimum(3 * more // len(counts), 2)
    return _rows(THIRDS, group[truth], truth, right)


def by_name(truth: np.ndarray, right: np.ndarray, names: Sequence[str]) -> list[GroupRow]:
    """Groups by a name of each query, such as its organ; "" belongs to none.

    Args:
        truth: (Q,) classes; right: (Q,) bool; names: Q.
    """
    there = sorted(set(filter(None, names)))
    place = {name: number for number, name in enumerate(there)}
    return _rows(there, np.array([place.get(name, -1) for name in names]), truth, right)


def _rows(names: Sequence[str], group: np.ndarray, truth: np.ndarray, right: np.ndarray) -> list[GroupRow]:
    rows = []
    for number, name in enumerate(names):
        inside = group == number
        if inside.any():
            classes = len(np.unique(truth[inside]))
            accuracy = micro(right[inside])
            rows.append(GroupRow(name=name, classes=classes, count=int(inside.sum()), accuracy=accuracy))
    return rows
