"""Class-balanced orders: shares by the power, passes without repetition, windows kept."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from umbel.data.balance import ClassBalance, places_of_classes

COUNTS = (40, 10, 2)
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], COUNTS))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_get_places_by_the_power(power: float) -> None:
    places = places_of_classes(np.array(COUNTS), power=power)
    shares = np.array(COUNTS) ** (1 - power)
    assert places.sum() == 52
    assert np.abs(places - 52 * shares / shares.sum()).max() < 1
    times = ClassBalance(LABELS, power=power, seed=0).times(0)
    assert [int(times[label == LABELS].sum()) for label in (0, 1, 3)] == places.tolist()
    if power == 0:
        assert (times == 1).all()


def test_every_class_has_a_place_however_rare() -> None:
    counts = np.array([1] * 50 + [1_000_000])
    assert places_of_classes(counts, power=0.0).tolist() == counts.tolist()
    for power in (0.0, 0.3, 1.0):
        places = places_of_classes(np.array([1, 1, 1, 1, 1, 97]), power=power)
        assert places.sum() == 102
        assert places.min() >= 1


def test_no_sample_comes_again_before_all_of_its_class_came() -> None:
    balance = ClassBalance(LABELS, power=0.7, seed=4)
    total = np.zeros(len(LABELS), dtype=int)
    for epoch in range(12):
        total += balance.times(epoch)
        for label in (0, 1, 3):
            own = total[label == LABELS]
            assert own.max() - own.min() <= 1, (epoch, label)


def test_it_is_a_function_of_seed_and_epoch() -> None:
    one, same, other = (ClassBalance(LABELS, power=0.7, seed=seed) for seed in (1, 1, 2))
    order, ends = np.random.default_rng(1).permutation(52), np.array([20, 20, 52])
    found, found_ends = one.order(order, ends, 3)
    again, _ = same.order(order, ends, 3)
    np.testing.assert_array_equal(found, again)
    assert (other.order(order, ends, 3)[0] != found).any()
    assert (one.order(order, ends, 4)[0] != found).any()
    assert len(found) == found_ends[-1] == 52
    # A window's samples stay in it, as often as they are to come.
    assert found_ends[1] == found_ends[0]
    assert set(found[: found_ends[0]]) <= set(order[:20])
    assert Counter(found.tolist()) == {n: t for n, t in enumerate(one.times(3).tolist()) if t}
