"""How fast training is and what it waits for, between two lines of the log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from umbel.machine import peak_memory


class Meter:
    """Counts the time of an interval and what of it went into waiting for data.

    Args:
        step: steps completed already.
        batch: G, photographs of a step of the whole job.
        world_size: W, ranks that share them.
        nominal: floating-point operations of a photograph, as if every block were computed once.
        executed: those that are computed: less by drop path, more by activation checkpointing.
        rate: floating-point operations a second of this rank's device in a matrix product.
        device: "cpu" or "cuda".
    """

    def __init__(
        self, *, step: int, batch: int, world_size: int, nominal: float, executed: float, rate: float, device: str
    ) -> None:
        self.batch, self.device = batch, device
        self.nominal, self.executed = (operations / (world_size * rate) for operations in (nominal, executed))
        self.step, self.started, self.waited = step, time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens inside is waiting for data."""
        asked = time.perf_counter()
        yield
        self.waited += time.perf_counter() - asked

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What happens inside (a save, a probe) is no training: its time does not count."""
        began = time.perf_counter()
        yield
        self.started += time.perf_counter() - began

    def read(self, step: int) -> dict[str, Any]:
        """Close the interval at `step` and begin the next.

        Returns:
            images_per_second (of the whole job); mfu and mfu_executed, the model FLOP utilization: the share of the
            devices' matrix-product rate that the nominal and the executed operations take; data_wait, a share of the
            time; memory_gib, the peak of this process.
        """
        now = time.perf_counter()
        seconds = max(now - self.started, 1e-9)
        images = (step - self.step) * self.batch / seconds
        row = {
            "images_per_second": images,
            "mfu": images * self.nominal,
            "mfu_executed": images * self.executed,
            "data_wait": self.waited / seconds,
            "memory_gib": peak_memory(self.device) / 2**30,
        }
        self.step, self.started, self.waited = step, now, 0.0
        return row
