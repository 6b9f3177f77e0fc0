"""Intervals: by hand, and that they cover the truth at the nominal rate in simulations."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from umbel.evaluation.classification import calibration_error, macro
from umbel.evaluation.estimates import Estimate, bootstrap, jackknife, over_draws, share
from umbel.evaluation.label_free import alignment

TRIALS = 400


def check(inside: list[bool], *, least: float = 0.95, most: float = 1.0) -> None:
    """The count of covered trials lies where the nominal rate puts 99.9 % of all counts."""
    low, high = binom.ppf(0.0005, len(inside), least), binom.ppf(0.9995, len(inside), most)
    assert low <= sum(inside) <= high, f"{sum(inside)} of {len(inside)}"


def covers(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def test_wilson_by_hand() -> None:
    found = share(1, 10)  # Wilson's interval for 1 of 10, as tables have it
    assert (found.value, round(found.low, 4), round(found.high, 4)) == (0.1, 0.0179, 0.4042)
    assert share(0, 4).low == 0
    assert share(4, 4).high == 1
    with pytest.raises(ValueError, match="at least one query"):
        share(0, 0)


def test_an_estimate_reads_in_percent() -> None:
    assert str(Estimate(value=0.879, low=0.861, high=0.894)) == "87.9 (86.1 to 89.4) %"


@pytest.mark.parametrize(("accuracy", "count"), [(0.7, 60), (0.95, 200), (0.5, 30)])
def test_a_share_covers(accuracy: float, count: int) -> None:
    right = np.random.default_rng(0).binomial(count, accuracy, 2000)
    # A count takes few values, so that the rate is not exactly nominal for any one accuracy.
    check([covers(share(int(hits), count), accuracy) for hits in right], least=0.935, most=0.97)


def test_the_mean_over_classes_covers() -> None:
    accuracy = np.linspace(0.3, 0.95, 8)
    chance = np.arange(1, 9) / 36  # classes of unequal frequency: micro and macro accuracy differ
    generator, inside = np.random.default_rng(1), []
    for _ in range(TRIALS):
        truth = generator.choice(8, 300, p=chance)
        inside.append(covers(macro(truth, generator.random(300) < accuracy[truth]), accuracy.mean()))
    check(inside, least=0.94, most=0.96)


def test_the_mean_over_classes_by_hand() -> None:
    truth, right = np.array([3, 3, 3, 3, 7]), np.array([True, False, False, False, True])
    assert macro(truth, right).value == 0.625


@pytest.mark.parametrize("kind", ["draws", "bootstrap", "jackknife", "alignment"])
def test_means_are_covered(kind: str) -> None:
    generator, inside = np.random.default_rng(2), []

    def by_jackknife(values: np.ndarray) -> Estimate:
        groups = np.array_split(values, 20)
        return jackknife(values.mean(), [np.delete(values, slice(3 * g, 3 * g + 3)).mean() for g in range(len(groups))])

    def by_alignment(values: np.ndarray) -> Estimate:
        angles = np.arccos(1 - values / 2)  # the squared distance of two unit vectors is 2 - 2 cos
        first = np.tile([1.0, 0.0], (len(values), 1))
        return alignment(first, np.stack([np.cos(angles), np.sin(angles)], axis=1))

    estimators: dict[str, Callable[[np.ndarray], Estimate]] = {
        "draws": over_draws,
        "bootstrap": lambda values: bootstrap(lambda rows: float(values[rows].mean()), len(values), seed=0),
        "jackknife": by_jackknife,
        "alignment": by_alignment,
    }
    for _ in range(TRIALS if kind != "alignment" else 200):
        inside.append(covers(estimators[kind](generator.beta(2, 3, 60)), 0.4))
    check(inside, least=0.935, most=0.96)


def test_calibration_by_hand_and_covered() -> None:
    confidence, right = np.array([0.95, 0.95, 0.35, 0.35]), np.array([True, True, True, False])
    assert calibration_error(confidence, right).value == pytest.approx((0.1 + 0.3) / 4)
    assert calibration_error(np.ones(3), np.array([True, True, True])).value == 0
    generator, inside = np.random.default_rng(3), []
    for _ in range(150):
        confidence = generator.uniform(0.5, 1, 800)
        inside.append(covers(calibration_error(confidence, generator.random(800) < confidence - 0.2), 0.2))
    check(inside, least=0.94, most=0.97)
