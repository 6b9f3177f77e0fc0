"""Numbers with their 95 % intervals: shares of queries, means over draws, bootstrap over queries, jackknife."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# scipy comes with scikit-learn.
from scipy.special import stdtrit  # type: ignore[import-untyped, unused-ignore]

NORMAL = 1.959963984540054
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and the ends of its 95 % interval; a share lies between 0 and 1."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """In percent: `87.9 (86.1 to 89.4) %`."""
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f}) %"


def share(right: int, count: int) -> Estimate:
    """The share of `count` independent queries that is right, with Wilson's score interval (1927).

    It keeps its coverage near 0 and 1, where a bootstrap has no width. It counts that the queries are a sample; the
    support is taken as given.

    Raises:
        ValueError: no queries.
    """
    if count < 1:
        raise ValueError("a share needs at least one query")
    value, z2 = right / count, NORMAL**2
    middle = (value + z2 / (2 * count)) / (1 + z2 / count)
    half = NORMAL * np.sqrt(value * (1 - value) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    # Rounding must not put the value outside its interval.
    low, high = min(value, max(0.0, middle - half)), max(value, min(1.0, middle + half))
    return Estimate(value=float(value), low=float(low), high=float(high))


def interval(accuracies: np.ndarray | Sequence[float]) -> tuple[float, float]:
    """Mean over draws and half the width of its 95 % confidence interval.

    Student's t interval for the mean of independent draws: t(0.975, n - 1) s / sqrt(n). It tells how well n draws
    determine the mean over all possible supports from these very images; it does not count that the images themselves
    are a sample.

    Raises:
        ValueError: fewer than 2 draws.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs a row of at least 2 accuracies, not shape {values.shape}")
    half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def over_draws(values: np.ndarray | Sequence[float]) -> Estimate:
    """`interval` as an estimate."""
    mean, half = interval(values)
    return Estimate(value=mean, low=mean - half, high=mean + half)


def bootstrap(statistic: Callable[[np.ndarray], float], count: int, *, seed: int, resamples: int = 200) -> Estimate:
    """A statistic of `count` queries, and its value plus and minus 1.96 deviations over resamples of the queries.

    The normal interval, not percentiles: statistics such as a calibration error are larger on every resample.

    Args:
        statistic: row numbers, (count,) int64, with repetitions -> the value on these queries.
    """
    generator = np.random.default_rng([seed, count])
    values = [statistic(generator.integers(0, count, count)) for _ in range(resamples)]
    value, half = statistic(np.arange(count)), NORMAL * float(np.std(values, ddof=1))
    return Estimate(value=value, low=value - half, high=value + half)


def jackknife(value: float, without: Sequence[float]) -> Estimate:
    """A statistic of all rows, with the interval by its values without each of G equal groups (delete-a-group)."""
    left = np.asarray(without, dtype=np.float64)
    deviation = np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum())
    half = float(stdtrit(len(left) - 1, 0.975) * deviation)
    return Estimate(value=value, low=value - half, high=value + half)
