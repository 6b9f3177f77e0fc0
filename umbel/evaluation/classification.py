"""What answers are worth: micro and macro accuracy, species by species, confusions, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umbel.evaluation.estimates import RESAMPLES, Estimate, bootstrap, share

BINS = 15


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often one class is taken for another."""

    true: int
    predicted: int
    count: int


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class: its queries, the share that is right, its photographs in the support."""

    label: int
    count: int
    accuracy: float
    support: int


def macro(truth: np.ndarray, right: np.ndarray, *, seed: int = 0) -> Estimate:
    """Mean over the classes of the share that is right, with a percentile interval by resampling queries.

    A resample of queries changes only how many right and wrong ones a class has: these counts are drawn at once, so
    that it costs nothing by query. A class that a resample leaves without queries does not count in it.

    Args:
        truth: (Q,) classes; right: (Q,) bool.
    """
    _, place, counts = np.unique(truth, return_inverse=True, return_counts=True)
    good = np.bincount(place, weights=right).astype(np.int64)
    value = float((good / counts).mean())
    cells = np.concatenate([good, counts - good])
    generator, values, block = np.random.default_rng([seed, len(truth)]), [], max(1, (1 << 22) // len(cells))
    for first in range(0, RESAMPLES, block):
        drawn = generator.multinomial(len(truth), cells / len(truth), min(block, RESAMPLES - first))
        hit, total = drawn[:, : len(good)], drawn[:, : len(good)] + drawn[:, len(good) :]
        values.append((hit / np.maximum(total, 1)).sum(1) / (total > 0).sum(1))
    low, high = np.quantile(np.concatenate(values), (0.025, 0.975))
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def calibration_error(confidence: np.ndarray, right: np.ndarray, *, seed: int = 0) -> Estimate:
    """Expected calibration error in 15 bins of equal width (arXiv 1706.04599): mean of |accuracy - confidence|.

    Args:
        confidence: (Q,) probability of the predicted class; right: (Q,) bool.
    """
    cell = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gap = right - confidence

    def error(rows: np.ndarray) -> float:
        return float(np.abs(np.bincount(cell[rows], weights=gap[rows], minlength=BINS)).sum() / len(rows))

    found = bootstrap(error, len(right), seed=seed)
    return Estimate(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))


def class_rows(asked: np.ndarray, right: np.ndarray, support: np.ndarray) -> list[ClassRow]:
    """The table of the classes that were asked for.

    Args:
        asked, right, support: (K,) by class: queries, right answers, photographs in the support.
    """
    return [
        ClassRow(label=label, count=int(asked[label]), accuracy=float(right[label] / asked[label]), support=int(given))
        for label, given in enumerate(support.tolist())
        if asked[label]
    ]


def confusions(truth: np.ndarray, predicted: np.ndarray, *, most: int = 20) -> list[Confusion]:
    """The pairs that are taken for one another most often, in one direction; equal ones by class.

    Args:
        truth, predicted: (Q,) classes.
    """
    wrong = truth != predicted
    base = 1 + int(max(truth.max(initial=0), predicted.max(initial=0)))
    codes, counts = np.unique(truth[wrong].astype(np.int64) * base + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [Confusion(true=int(codes[i] // base), predicted=int(codes[i] % base), count=int(counts[i])) for i in order]


def micro(right: np.ndarray) -> Estimate:
    """The share of queries, (Q,) bool, that is right."""
    return share(int(right.sum()), len(right))
