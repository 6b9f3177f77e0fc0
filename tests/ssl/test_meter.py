"""What an interval of training is worth: rates, shares and what does not count, on a clock that the test moves."""

from __future__ import annotations

import pytest

from umbel.ssl import meter


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


def make_meter(clock: Clock, monkeypatch: pytest.MonkeyPatch, **settings: float) -> meter.Meter:
    monkeypatch.setattr(meter, "time", clock)
    given = {"step": 10, "batch": 8, "world_size": 2, "nominal": 300.0, "executed": 400.0, "rate": 1000.0} | settings
    return meter.Meter(device="cpu", **given)  # type: ignore[arg-type]


def test_an_interval_is_counted_from_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    found = make_meter(clock, monkeypatch)
    with found.waiting():
        clock.now += 1.0
    clock.now += 3.0
    row = found.read(15)
    # 5 steps of 8 photographs in 4 s; two devices of 1000 operations a second.
    assert row["images_per_second"] == 10
    assert row["mfu"] == pytest.approx(10 * 300 / 2000)
    assert row["mfu_executed"] == pytest.approx(10 * 400 / 2000)
    assert row["data_wait"] == 0.25
    assert row["memory_gib"] > 0
    clock.now += 2.0
    row = found.read(16)
    assert (row["images_per_second"], row["data_wait"]) == (4, 0)


def test_saving_is_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    found = make_meter(clock, monkeypatch)
    clock.now += 2.0
    with found.aside():
        clock.now += 50.0
    assert found.read(11)["images_per_second"] == 4
