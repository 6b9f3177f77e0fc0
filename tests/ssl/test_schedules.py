"""Schedules: end points, mid points and the scale of the learning rate."""

import math

import pytest

from umbel.ssl.optimizer import OptimConfig, Schedule
from umbel.ssl.schedules import cosine, scaled_learning_rate, warmup_cosine


def plant_schedule(global_batch: int = 1024) -> Schedule:
    """100 epochs of 50 steps under the plant configuration."""
    return Schedule(config=OptimConfig(), global_batch=global_batch, steps_per_epoch=50, total_steps=5000)


def test_cosine_end_points_and_shape() -> None:
    assert cosine(0.04, 0.4, 0.0) == pytest.approx(0.04)
    assert cosine(0.04, 0.4, 1.0) == pytest.approx(0.4)
    assert cosine(0.04, 0.4, 0.5) == pytest.approx(0.22)
    # A quarter of the way a cosine has gone (1 - sqrt(1/2)) / 2 of the difference.
    assert cosine(0.0, 1.0, 0.25) == pytest.approx((1 - math.sqrt(0.5)) / 2)
    assert cosine(1.0, 0.0, 0.25) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_cosine_stays_at_its_ends() -> None:
    assert cosine(2.0, 3.0, -0.1) == 2.0
    assert cosine(2.0, 3.0, 1.5) == 3.0


def test_warmup_is_a_straight_line_and_then_a_cosine_to_the_floor() -> None:
    def rate(step: int) -> float:
        return warmup_cosine(step, peak=1.0, floor=0.1, warmup_steps=10, total_steps=110)

    assert [rate(step) for step in range(11)] == pytest.approx([0.1 + 0.09 * step for step in range(11)])
    assert rate(60) == pytest.approx(0.55)
    assert rate(35) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert rate(110) == pytest.approx(0.1)
    assert all(rate(step) > rate(step + 1) for step in range(10, 110))


@pytest.mark.parametrize("warmup", [0, 1, 20])
def test_warmup_of_nothing_or_everything(warmup: int) -> None:
    rates = [warmup_cosine(s, peak=1.0, floor=0.1, warmup_steps=warmup, total_steps=20) for s in range(20)]
    assert rates[0] == (0.1 if warmup else 1.0)
    assert max(rates) == (pytest.approx(1 - 0.9 / 20) if warmup == 20 else 1.0)
    assert min(rates) >= 0.1


def test_learning_rate_grows_with_the_root_of_the_global_batch() -> None:
    assert scaled_learning_rate(0.004, 1024) == 0.004
    assert scaled_learning_rate(0.004, 256) == pytest.approx(0.002)
    assert scaled_learning_rate(0.004, 512) == pytest.approx(0.004 * math.sqrt(0.5))
    assert plant_schedule(256).learning_rate(500) == pytest.approx(0.002)


def test_plant_configuration_over_a_run() -> None:
    schedule = plant_schedule()
    # The floor is not scaled; ten epochs of 50 steps are the warm-up.
    assert schedule.learning_rate(0) == pytest.approx(1e-6)
    assert schedule.learning_rate(250) == pytest.approx((0.004 + 1e-6) / 2)
    assert schedule.learning_rate(500) == pytest.approx(0.004)
    assert schedule.learning_rate(2750) == pytest.approx((0.004 + 1e-6) / 2)
    assert schedule.learning_rate(5000) == pytest.approx(1e-6)
    assert [schedule.weight_decay(s) for s in (0, 2500, 5000)] == pytest.approx([0.04, 0.22, 0.4])
    assert [schedule.momentum(s) for s in (0, 2500, 5000)] == pytest.approx([0.9, 0.95, 1.0])


def test_the_floor_does_not_depend_on_the_batch() -> None:
    assert plant_schedule(64).learning_rate(0) == plant_schedule(4096).learning_rate(0) == pytest.approx(1e-6)


def test_warmup_is_not_longer_than_the_run() -> None:
    short = Schedule(config=OptimConfig(), global_batch=1024, steps_per_epoch=50, total_steps=100)
    rates = [short.learning_rate(step) for step in range(100)]
    assert rates == sorted(rates)
    assert max(rates) < 0.004
