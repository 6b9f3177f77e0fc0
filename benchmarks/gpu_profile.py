"""The GPU suite's profile: which kernels a training step's time goes to, and how long the device waits for the host."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import torch
from gpu_context import Context
from measuring import wait_for
from step import TrainingStep, masked_batches, seen_of
from torch.profiler import ProfilerActivity

from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views
from umbel.data.index import PRETRAINING_SPLITS, open_shards
from umbel.machine import choose_compile, choose_workers
from umbel.ssl.feed import to_device

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
STEPS = 5
TOP = 20


def profile(context: Context, *, model: str) -> list[dict[str, Any]]:
    """Data, views and step of some batches; a row for the whole and one for each of the kernels that take longest."""
    config = context.config(model, 4 if context.tiny else 128)
    shards = open_shards(context.photographs()).select(PRETRAINING_SPLITS)
    compiled = choose_compile(context.device.type, "auto").value == "on"
    step = TrainingStep(config, device=context.device, precision=context.precision(), compile_blocks=compiled)
    views = Views(config.views, seed=0, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=context.device)
    cuda = context.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    workers = int(choose_workers(-1, 1).value)
    with masked_batches(config, shards, patch=step.patch, workers=workers, pin=cuda) as from_workers:
        batches = to_device(from_workers, context.device)

        def run(count: int) -> float:
            wait_for(context.device)
            started = time.perf_counter()
            for _ in range(count):
                step(seen_of(next(batches), views))
            wait_for(context.device)
            return time.perf_counter() - started

        run(2 if context.tiny else 8)
        unwatched = run(STEPS)
        with torch.profiler.profile(activities=activities) as profiler:
            watched = run(STEPS)
    trace = context.work / f"trace-{model}.json"
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    kinds = ON_DEVICE if cuda else ("cpu_op",)
    spans = [(e["name"], e["cat"], float(e["ts"]), float(e["dur"])) for e in events if e.get("cat") in kinds]
    if not spans:
        raise RuntimeError(f"the profiler saw nothing of the kinds {', '.join(kinds)}.")
    busy, first, last = covered([(start, start + length) for _, _, start, length in spans])
    note = f"{1e3 * unwatched / STEPS:.1f} ms a step without the profiler, {1e3 * watched / STEPS:.1f} with it"
    rows = [
        {
            "model": model,
            "what": f"device busy, of the time from its first kernel to its last ({note})",
            "ms a step": busy / 1e3 / STEPS,
            "share": busy / (last - first),
            "calls a step": len(spans) / STEPS,
        }
    ]
    microseconds, calls = Counter[str](), Counter[str]()
    for name, kind, _, length in spans:
        label = name if kind in ("kernel", "cpu_op") else f"{kind}: {name}"
        microseconds[label] += length  # type: ignore[assignment]
        calls[label] += 1
    total = sum(microseconds.values())
    for name, length in microseconds.most_common(TOP):
        line = {"model": model, "what": name[:90], "ms a step": length / 1e3 / STEPS, "share": length / total}
        rows.append(line | {"calls a step": calls[name] / STEPS})
    return rows


def covered(spans: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Length of the spans' union, and where it begins and ends."""
    spans = sorted(spans)
    length, (start, end) = 0.0, spans[0]
    for begin, until in spans:
        if begin > end:
            length, start, end = length + end - start, begin, until
        end = max(end, until)
    return length + end - start, spans[0][0], end
