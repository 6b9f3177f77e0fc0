"""Two kinds of features on the same queries and draws: paired bootstrap interval of the difference, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umbel.evaluation.estimates import RESAMPLES, Estimate

# Numbers in one temporary array: 32 MiB in float32.
CHUNK = 1 << 23


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much better the first is than the second."""

    first: str
    second: str
    measure: str
    difference: Estimate
    verdict: str


def compare(
    first: str,
    second: str,
    measure: str,
    first_hits: np.ndarray,
    second_hits: np.ndarray,
    counted: np.ndarray,
    *,
    seed: int,
) -> Comparison:
    """Compare two kinds of features.

    Args:
        first, second: their names.
        measure: what the hits are of, in words.
        first_hits, second_hits: (d, Q) bool, right answers in d draws to Q queries.
        counted: (d, Q) bool, the queries that count in a draw.
    """
    difference = paired_difference(first_hits, second_hits, counted, seed=seed)
    verdict = verdict_in_words(first, second, measure, difference)
    return Comparison(first=first, second=second, measure=measure, difference=difference, verdict=verdict)


def paired_difference(
    first_hits: np.ndarray, second_hits: np.ndarray, counted: np.ndarray, *, seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """The difference of two accuracies, with a percentile interval by resampling draws and queries both.

    Pairs stay together, so that what is hard for both does not widen the interval. Resampling rows and columns of the
    table (Owen, arXiv 0712.1111) counts that both draws and queries are samples; its variance is never too small on
    average, and a little too large where draws and queries interact strongly.

    Args:
        first_hits, second_hits: (d, Q) bool; counted: (d, Q) bool.
    """
    draws, count = counted.shape
    table = np.where(counted, first_hits.astype(np.float32) - second_hits, 0).astype(np.float32)
    mask = None if counted.all() else counted.astype(np.float32)
    if not table.any():
        # Answers that are alike throughout have no spread to resample: of so many queries, that many may yet differ.
        half = float(-np.log(0.025) / count)
        return Estimate(value=0.0, low=-min(1.0, half), high=min(1.0, half))
    generator = np.random.default_rng([seed, draws, count])
    values, block = [], max(1, CHUNK // count)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        of_draws = generator.multinomial(draws, np.full(draws, 1 / draws), size).astype(np.float32)  # (R, d)
        of_queries = generator.multinomial(count, np.full(count, 1 / count), size).astype(np.float32)  # (R, Q)
        total = np.einsum("rq,rq->r", of_draws @ table, of_queries, dtype=np.float64)
        weight = draws * count if mask is None else np.einsum("rq,rq->r", of_draws @ mask, of_queries, dtype=np.float64)
        values.append(total / weight)
    value = float(table.sum(dtype=np.float64) / counted.sum())
    low, high = np.quantile(np.concatenate(values), (0.025, 0.975))
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def verdict_in_words(first: str, second: str, measure: str, difference: Estimate) -> str:
    """`A is better than B by 2.1 points of 5-shot accuracy (95 % interval 1.2 to 3.0).`"""
    value, low, high = (100 * number for number in (difference.value, difference.low, difference.high))
    if low > 0:
        told = f"{first} is better than {second} by {value:.1f} points of {measure}"
        return f"{told} (95 % interval {low:.1f} to {high:.1f})."
    if high < 0:
        told = f"{first} is worse than {second} by {-value:.1f} points of {measure}"
        return f"{told} (95 % interval {-high:.1f} to {-low:.1f})."
    told = f"no difference between {first} and {second} can be told in {measure}"
    return f"{told} ({value:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f})."
