"""Speed of the GPU suite: a step alone by model and batch, and views on the device."""

from __future__ import annotations

import gc
import statistics
from typing import Any

import augment
import measuring
import torch
import torch._dynamo
from gpu_check_data import photographs_like
from gpu_context import Context
from step import TrainingStep, random_views

from umbel.augment.policy import POLICIES
from umbel.machine import choose_compile, matmul_rate
from umbel.ssl.operations import step_operations

PRECISIONS = {"bf16": torch.bfloat16, "float32": torch.float32}
BATCHES = (32, 64, 128, 256)
COMPILED_BATCHES = (64, 128, 256)
"""Fewer: every batch is compiled anew, with its shapes."""


def throughput(context: Context, *, model: str, compiled: bool) -> list[dict[str, Any]]:
    """Images a second and memory, until it is out of memory."""
    precision = context.precision()
    rate = matmul_rate(context.device.type, precision)
    batches = (2, 4) if context.tiny else COMPILED_BATCHES if compiled else BATCHES
    rows = []
    for batch in batches:
        line: dict[str, Any] = {"model": model, "compiled": compiled, "batch": batch, "precision": precision}
        try:
            line |= step_speed(context, model, batch, precision, compiled, rate)
        except torch.OutOfMemoryError:
            rows.append(line | {"note": "out of memory"})
            break
        rows.append(line)
    return rows


def step_speed(context: Context, model: str, batch: int, precision: str, compiled: bool, rate: float) -> dict[str, Any]:
    """A step's time and memory at one batch; networks are freed when it returns."""
    torch._dynamo.reset()
    gc.collect()  # networks and optimizers of the batch before hold each other
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    config = context.config(model, batch)
    step = TrainingStep(config, device=context.device, precision=precision, compile_blocks=compiled)
    seen = random_views(config, step.patch, context.device)
    seconds = measuring.in_turn(
        {"step": lambda: step(seen)}, rounds=3 if context.tiny else 15, device=context.device, warm_up=4
    )["step"]
    median, operations = statistics.median(seconds), step_operations(step.student, config)
    found = {
        "drop path": step.student.drop_path,
        "ms a step": 1e3 * median,
        "images/s": batch / median,
        "TFLOP/s": batch * operations.nominal / median / 1e12,
        "MFU": batch * operations.nominal / median / rate,
        "MFU executed": batch * operations.executed / median / rate,
        "slowest / median": max(seconds) / median,
    }
    if context.device.type == "cuda":
        found["memory GiB"] = torch.cuda.max_memory_allocated() / 2**30
        found["reserved GiB"] = torch.cuda.max_memory_reserved() / 2**30
    return found


def views(context: Context) -> list[dict[str, Any]]:
    """Images a second of every policy and of other ways, as shares of the steps of a ViT-S and a ViT-B."""
    batch = 4 if context.tiny else 128
    height, width = (48, 64) if context.tiny else (375, 500)
    config = context.config("ViT-B", batch).views
    canvas = photographs_like(batch, height, width).to(context.device)
    on_device = augment.on_device(config, canvas, dtype=PRECISIONS[context.precision()])
    contenders = {f"{augment.FAST}, {policy}": on_device(policy) for policy in POLICIES}
    contenders[augment.PLAIN] = on_device("plant", plain=True)
    contenders[augment.MODULES] = augment.kornia_modules(config, canvas)
    rounds = 3 if context.tiny else 15
    seconds = measuring.medians(measuring.in_turn(contenders, rounds=rounds, device=context.device))
    steps = {}
    for model in ("ViT-S", "ViT-B"):
        compiled = choose_compile(context.device.type, "auto").value == "on"  # as training has it
        found = step_speed(context, model, batch, context.precision(), compiled, 1.0)
        steps[model] = found["ms a step"] / 1e3
    return [
        {"views": name, "batch": batch, "ms a batch": 1e3 * taken, "images/s": batch / taken}
        | {f"of a {model}'s step": taken / step for model, step in steps.items()}
        for name, taken in seconds.items()
    ]
