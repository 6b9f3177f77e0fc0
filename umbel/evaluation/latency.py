"""How long a batch takes, and the greatest memory meanwhile: bounded in time, on threads that are fixed and told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from umbel.evaluation.energy import Counter

LEAST_FOR_P95 = 20
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Batches of one size, one after the other."""

    batch: int
    runs: int
    """Batches that were timed, after the warm-up."""
    p50_ms: float
    """Median of a batch, in milliseconds."""
    p95_ms: float | None
    """95th percentile; None for fewer than 20 runs, where it would be the slowest or nearly so."""
    images_per_second: float
    """All images by all the time."""
    joules_per_1000_images: float | None
    """By the energy counter; None where there is none, or it did not move."""
    peak_memory_bytes: int | None
    """Of the GPU: allocated by torch. Of a CPU: resident memory of the whole process, libraries included."""


def time_batches(
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    device: str,
    seconds: float,
    counter: Counter,
    least: int = 3,
) -> Latency:
    """Time a batch again and again.

    Args:
        forward: (B, 3, H, W) -> (B, C), under inference mode.
        images: (B, 3, H, W) on the device.
        seconds: bound of the timed batches together, and a fifth of it for the warm-up; `least` batches and one for the
            warm-up run however long they take.
    """
    reset = _reset_peak(device)
    with torch.inference_mode():
        _repeat(forward, images, device, seconds / 5, 1)
        before = counter.read() if counter.read else ()
        times = _repeat(forward, images, device, seconds, least)
        after = counter.read() if counter.read else ()
    joules = counter.between(before, after)
    total = len(times) * len(images)
    return Latency(
        batch=len(images),
        runs=len(times),
        p50_ms=1e3 * float(np.median(times)),
        p95_ms=1e3 * float(np.quantile(times, 0.95)) if len(times) >= LEAST_FOR_P95 else None,
        images_per_second=total / sum(times),
        # A counter that did not move, because it is updated too rarely, is no measurement of 0.
        joules_per_1000_images=1000 * joules / total if joules > 0 else None,
        peak_memory_bytes=_peak(device) if reset else None,
    )


def _repeat(
    forward: Callable[[Tensor], Tensor], images: Tensor, device: str, seconds: float, least: int
) -> list[float]:
    """Seconds of each batch, as many as the time allows."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < least or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        forward(images)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return times


def _reset_peak(device: str) -> bool:
    """Let the greatest memory begin anew; False where that cannot be (not Linux)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


def _peak(device: str) -> int | None:
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    lines = [line.split() for line in STATUS.read_text().splitlines()]
    return next((1024 * int(words[1]) for words in lines if words and words[0] == "VmHWM:"), None)
