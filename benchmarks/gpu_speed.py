"""Speed of the GPU suite: a step alone by model and batch, and views on the device."""

from __future__ import annotations

import dataclasses
import gc
import statistics
from typing import Any

import measuring
import torch
import torch._dynamo
from gpu_check_data import photographs_like
from gpu_context import Context
from step import TrainingStep, random_views

from umbel.augment.policy import POLICIES
from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views
from umbel.machine import choose_compile, matmul_rate
from umbel.ssl.operations import step_operations

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
    """Images a second of every policy and of Kornia's own modules, as shares of the steps of a ViT-S and a ViT-B."""
    batch = 4 if context.tiny else 128
    height, width = (48, 64) if context.tiny else (375, 500)
    config = context.config("ViT-B", batch).views
    canvas = photographs_like(batch, height, width).to(context.device)
    size = torch.tensor([[height, width]] * batch)
    position = torch.arange(batch).numpy()

    def made_by(policy: str) -> Any:
        changed = dataclasses.replace(config, policy=policy)
        maker = Views(changed, seed=0, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=context.device)
        return lambda: maker(canvas, size, 0 * position, position)

    contenders = {"crops alone" if policy == "none" else policy: made_by(policy) for policy in POLICIES}
    contenders["plant by Kornia's modules"] = kornia_views(config, canvas)
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


def kornia_views(config: Any, canvas: torch.Tensor) -> Any:
    """The plant policy as Kornia's documentation would have it: its own modules and draws, on floats."""
    import kornia.augmentation as K

    def modules(side: int, area: tuple[float, float]) -> K.AugmentationSequential:
        return K.AugmentationSequential(
            K.RandomResizedCrop((side, side), scale=area, ratio=config.aspect, resample="bicubic"),
            K.RandomHorizontalFlip(p=config.flip),
            K.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
            K.RandomPosterize((3.0, 5.0), p=0.5),
            K.RandomAffine(10.0, translate=(0.1, 0.1), resample="nearest", p=0.3),
            K.Normalize(torch.tensor(INAT_PLANTAE_MEAN), torch.tensor(INAT_PLANTAE_STD)),
        ).to(canvas.device)

    global_, local = modules(config.global_size, config.global_area), modules(config.local_size, config.local_area)

    def run() -> None:
        with torch.no_grad():
            images = canvas.float().div_(255)
            global_(images.repeat(2, 1, 1, 1))
            for _ in range(config.local_views):  # all at once would hold the photographs that many times
                local(images)

    return run
