"""What benchmarks share: where they ran, and contenders that take turns. Import it before torch."""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command sets it, before torch is imported

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from umbel import __version__

LIBRARIES = ("torch", "torchvision", "timm", "kornia", "numpy")


def setting(device: torch.device) -> dict[str, Any]:
    """Commit, versions, device, threads and the machine's load: what a number is worth nothing without."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "umbel": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "libraries": {name: installed for name in LIBRARIES if (installed := version_of(name))},
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


def commit() -> str:
    """The checked-out commit, with a + where files differ from it; "none" outside of git."""
    asked = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": False}
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **asked).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **asked).stdout.strip()
    except FileNotFoundError:
        return "none"
    return f"{head}{'+' if changed else ''}" if head else "none"


def version_of(library: str) -> str | None:
    """Its version, or None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def in_words(found: Mapping[str, Any]) -> str:
    """A setting in two lines."""
    libraries = ", ".join(f"{name} {installed}" for name, installed in found["libraries"].items())
    first = f"umbel {found['umbel']} {found['commit']}, python {found['python']}, {libraries}"
    return f"{first}\n{found['device']}, {found['threads']} threads, load {found['load']}"


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every contender in every round; they take turns, so that what disturbs the machine disturbs all."""
    for contender in contenders.values():
        for _ in range(warm_up):
            contender()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            wait_for(device)
            started = clock()
            contender()
            wait_for(device)
            seconds[name].append(clock() - started)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each contender's rounds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(seconds: Mapping[str, list[float]], name: str, base: str) -> float:
    """The median over rounds of one contender's time over another's, of the same round each."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


class Phases:
    """Seconds of a step's phases: `mark(name)` ends a phase, waiting for the device."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.clock = device, clock
        self.seconds: dict[str, list[float]] = {}
        self.begin()

    def begin(self) -> None:
        """A step begins."""
        wait_for(self.device)
        self.started = self.clock()

    def __call__(self, name: str) -> None:
        wait_for(self.device)
        now = self.clock()
        self.seconds.setdefault(name, []).append(now - self.started)
        self.started = now


def unmarked(_: str) -> None:
    """In place of `Phases` where the whole step is timed."""
