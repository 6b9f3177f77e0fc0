"""Which photographs of labeled shards make a bundle's classes, which calibrate its answers, and which measure them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umbel.data.shard_set import ShardSet
from umbel.evaluation.holdout import hold_out
from umbel.run import UserError, say

VALIDATION, TEST = ("val", "validation"), ("test",)
HELD_OUT = 0.2
CALIBRATES, COMPARES = "calibrate the confidence by", "compare the 8-bit model with the float one by"
LEAST_CALIBRATION = 20
"""Photographs; fewer tell nothing of a confidence."""


@dataclass(frozen=True, kw_only=True)
class LabeledRows:
    """Samples of shards, (n,) int64 each, none of them twice."""

    support: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    words: str
    """Where the validation photographs come from."""


def choose_rows(
    shards: ShardSet, *, per_class: int, seed: int = 0, place: str = "", purpose: str = CALIBRATES
) -> LabeledRows:
    """Divide labeled photographs: split val calibrates (a fifth of each class where there is none), test measures.

    Args:
        per_class: photographs of a class that are used, at most; as many again to calibrate and to measure.
        place: where the photographs are from, for what is said; by default the shards' folder.
        purpose: what the validation photographs are for, in words behind "to".

    Raises:
        UserError: no labels, a single class, or too few photographs to calibrate by.
    """
    place = place or str(shards.folder)
    labels = shards.members["label"].astype(np.int64)
    if not (labels >= 0).any() or not shards.classes:
        raise UserError(f"{place} has no labels, which a bundle's classes are made of: give labeled --data.")
    split = np.array([shard.split for shard in shards.shards])[shards.members["shard"]]
    test = (labels >= 0) & np.isin(split, TEST)
    validation = (labels >= 0) & np.isin(split, VALIDATION)
    support = (labels >= 0) & ~test & ~validation
    if not support.any() and not validation.any():
        # Test photographs alone make the classes, and nothing measures them.
        support, test = test, np.zeros_like(test)
    elif not support.any():
        support, validation = validation, np.zeros_like(validation)
    words = "split val"
    if not validation.any():
        rows = np.flatnonzero(support)
        aside = rows[hold_out(labels[rows], share=HELD_OUT, seed=seed)]
        validation[aside], support[aside] = True, False
        words = f"a fifth of every class, held out of {', '.join(sorted(set(split[rows].tolist())))}"
        say(f"there is no split val to {purpose}: {words}, takes its place.")
    known = np.unique(labels[support])
    if len(known) < 2:
        raise UserError(f"{place} has photographs of {len(known)} class: a bundle needs two or more.")
    # Labels without a photograph to learn from cannot be answered, nor tell how good answers are.
    validation, test = (chosen & np.isin(labels, known) for chosen in (validation, test))
    if validation.sum() < LEAST_CALIBRATION:
        raise UserError(
            f"{place} has {int(validation.sum())} labeled photographs to {purpose}, fewer than "
            f"{LEAST_CALIBRATION}: give more."
        )
    limited = [_at_most(np.flatnonzero(chosen), labels, per_class, seed) for chosen in (support, validation, test)]
    return LabeledRows(support=limited[0], validation=limited[1], test=limited[2], words=words)


def take(shards: ShardSet, rows: NDArray[np.int64]) -> ShardSet:
    """Some samples of a set, in their order."""
    return dataclasses.replace(shards, members=np.asarray(shards.members[rows]), keys=np.asarray(shards.keys[rows]))


def _at_most(rows: NDArray[np.int64], labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most so many random rows of each class, in file order."""
    order = np.random.default_rng([seed, len(rows)]).permutation(rows)
    order = order[np.argsort(labels[order], kind="stable")]
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, counts)
    return np.sort(order[place < most])
