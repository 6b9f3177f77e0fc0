"""A part of every class, set aside: queries where no split gives them, validation data to choose a setting by."""

from __future__ import annotations

import numpy as np


def hold_out(labels: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """A random `share` of every class, at least one image of each class that has two; the rest stays.

    Args:
        labels: (N,) classes, integers from 0 up.

    Returns:
        (N,) bool, True: set aside.
    """
    chance = np.random.default_rng([seed, len(labels)]).random(len(labels))
    order = np.lexsort((chance, labels))
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) - np.repeat(first, counts)
    wanted = np.where(counts > 1, np.maximum(1, np.round(share * counts)), 0)
    wanted = np.minimum(wanted, counts - 1)
    per_image = np.empty(len(labels))
    per_image[order] = np.repeat(wanted, counts)
    aside: np.ndarray = place < per_image
    return aside
