"""The paired difference of two kinds of features."""

from __future__ import annotations

from umbel.evaluation.report_results import Features
from umbel.evaluation.report_words import difference


def paired(first: Features, second: Features, shots: int) -> tuple[float, float] | None:
    """first - second and half its 95 % interval; None where nothing is paired.

    As their result itself tells it, where they are of the same one: that interval counts the choice of the queries too.
    Otherwise over the draws of the support alone.
    """
    told = first.comparisons.get((str(second.row["name"]), shots)) if first.source == second.source else None
    if told is None:
        return difference(first.accuracies[shots], second.accuracies[shots])
    value, low, high = told
    # The wider side, so that an interval that holds 0 goes on holding it.
    return value, max(high - value, value - low)
