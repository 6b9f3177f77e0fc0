"""Images a second by stage of pretraining, in one run on this machine: where the time goes.

python benchmarks/stages.py DATA --recipe demo          (DATA: shards; without it synthetic plants are drawn)
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch

from umbel import __version__
from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views
from umbel.backbones.build import build
from umbel.config import from_values, read_recipe
from umbel.data.index import PRETRAINING_SPLITS, open_shards
from umbel.data.make import MakeSyntheticConfig, make_synthetic
from umbel.data.order import CursorSampler, Slices
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches
from umbel.machine import choose_attention, choose_device, choose_precision, choose_workers, matmul_rate, peak_memory
from umbel.ssl.losses import image_loss, weighted_patch_loss
from umbel.ssl.network import Network, set_attention
from umbel.ssl.operations import step_operations
from umbel.ssl.optimizer import Schedule, build_optimizer, clip_gradients, update_teacher
from umbel.ssl.pretrain_config import PretrainConfig
from umbel.ssl.train import AddMasks, MaskedBatch


def main() -> None:
    """Measure every stage in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", help="shards; synthetic plants by default")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--hidden", type=int, help="width of the head's hidden layers")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "float32"])
    parser.add_argument("--batches", type=int, default=15, help="batches timed of each stage")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = arguments.data
        if data is None:
            started = time.perf_counter()
            make_synthetic(MakeSyntheticConfig(out=Path(scratch) / "plants", train=2400, test=0))
            print(f"drawing synthetic plants: {2400 / (time.perf_counter() - started):.0f} images/s")
            data = f"{scratch}/plants"
        config = from_values(
            PretrainConfig(data=data, out=Path(scratch)), read_recipe(arguments.recipe, "pretrain"), arguments.recipe
        )
        if arguments.hidden:
            config = dataclasses.replace(config, head=dataclasses.replace(config.head, hidden=arguments.hidden))
        with contextlib.ExitStack() as stack:
            precision = choose_precision(arguments.precision, choose_device("auto").value).value
            measure(config, precision, arguments.batches, stack)


def measure(config: PretrainConfig, precision: str, count: int, stack: contextlib.ExitStack) -> None:
    """Time the stages one after the other, then all together as training runs them.

    Args:
        stack: ends the data workers.
    """
    device = torch.device(choose_device("auto").value)
    shards = open_shards(config.data).select(PRETRAINING_SPLITS)
    slices = Slices(micro_batch=config.train.batch)
    rows: list[tuple[str, float]] = []
    dataset = TrainingDataset(shards, seed=0, canvas=config.reader.canvas, window=config.reader.window)

    def batches(workers: int) -> Any:
        sampler = CursorSampler(slices, first=0, last=10_000)
        side = config.views.global_size // (config.backbone.patch or 16)
        collate = AddMasks(config=config, slices=slices, grid=(side, side))
        return stack.enter_context(training_batches(dataset, sampler, collate=collate, workers=workers, pin=False))

    def timed(name: str, step: Callable[[], object]) -> None:
        step(), step()
        times = []
        for _ in range(count):
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        rows.append((name, slices.micro_batch / statistics.median(times)))

    source = batches(0)
    timed("reader and masks, in this process", lambda: next(source))
    item: MaskedBatch = next(source)
    views = Views(config.views, seed=0, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=device)
    plain = Views(
        dataclasses.replace(config.views, policy="none"),
        seed=0,
        mean=INAT_PLANTAE_MEAN,
        std=INAT_PLANTAE_STD,
        device=device,
    )

    def make_views(which: Views, item: MaskedBatch) -> Any:
        return which(item.batch.canvas.to(device), item.batch.size, item.batch.epoch, item.batch.position)

    timed("views, crops alone", lambda: make_views(plain, item))
    timed("views, plant policy", lambda: make_views(views, item))

    torch.manual_seed(0)
    student = Network(build(config.backbone, config.views.global_size), config.head, config.optim.drop_path).to(device)
    set_attention(student.backbone, fused=choose_attention(device.type, precision).value == "fused")
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    optimizer = build_optimizer(student, config.optim)
    schedule = Schedule(config=config.optim, global_batch=slices.global_batch, steps_per_epoch=100, total_steps=1000)
    schedule.apply(optimizer, 500)
    cast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

    def forward_teacher(seen: Any, item: MaskedBatch) -> Any:
        with torch.no_grad(), cast:
            return teacher(seen[0], None, None, item.masked.to(device))

    def train_step(seen: Any, item: MaskedBatch) -> None:
        classes, patches, _ = forward_teacher(seen, item)
        with cast:
            own_classes, own_patches, _ = student(*seen, item.masks.to(device), item.masked.to(device))
        total = image_loss(own_classes, classes)[0]
        (total + weighted_patch_loss(own_patches, patches, item.weights.to(device))).backward()
        clip_gradients(student.backbone.parameters(), 3.0)
        clip_gradients(student.head.parameters(), 3.0)
        optimizer.step()
        update_teacher(teacher, student, 0.99)
        optimizer.zero_grad(set_to_none=True)

    seen = make_views(views, item)
    timed("teacher forward", lambda: forward_teacher(seen, item))
    timed("whole step of both networks", lambda: train_step(seen, item))
    workers = int(choose_workers(-1, 1).value)
    source = batches(workers)

    def everything() -> None:
        item = next(source)
        train_step(make_views(views, item), item)

    timed(f"training: all of it, {workers} data worker(s)", everything)
    operations = step_operations(student, config)
    rate = matmul_rate(device.type, precision)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"umbel {__version__} {commit or '(no git)'}, torch {torch.__version__}, timm {timm.__version__}")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {device}, {precision}, batch {config.train.batch}")
    for name, value in rows:
        print(f"{name:<45} {value:8.0f} images/s")
    share = rows[-1][1] * operations.nominal / rate
    print(
        f"{operations.nominal / 1e9:.2f} GFLOP an image ({operations.executed / 1e9:.2f} executed); "
        f"{share:.0%} of the matrix-product rate {rate / 1e9:.0f} GFLOP/s"
    )
    print(f"peak memory {peak_memory(device.type) / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
