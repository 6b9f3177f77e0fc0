"""Images a second by stage of pretraining, in one run on this machine: where the time goes.

python benchmarks/stages.py DATA --recipe demo          (DATA: shards; without it synthetic plants are drawn)
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import torch
from step import TrainingStep, masked_batches, seen_of

from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig
from umbel.config import from_values, read_recipe
from umbel.data.index import PRETRAINING_SPLITS, open_shards
from umbel.data.make import MakeSyntheticConfig, make_synthetic
from umbel.machine import choose_device, choose_precision, choose_workers, matmul_rate, peak_memory
from umbel.ssl.feed import MaskedBatch, to_device
from umbel.ssl.operations import step_operations
from umbel.ssl.pretrain_config import PretrainConfig


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
    rows: list[tuple[str, float]] = []
    torch.manual_seed(0)
    step = TrainingStep(config, device=device, precision=precision, steps_per_epoch=100, total_steps=1000)
    step.steps = 500

    def batches(workers: int) -> Any:
        pin = device.type == "cuda"
        source = stack.enter_context(masked_batches(config, shards, patch=step.patch, workers=workers, pin=pin))
        return to_device(source, device)

    def views_by(views: ViewsConfig) -> Views:
        return Views(views, seed=0, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=device)

    def timed(name: str, stage: Callable[[], object]) -> None:
        seconds = measuring.in_turn({name: stage}, rounds=count, device=device)
        rows.append((name, config.train.batch / statistics.median(seconds[name])))

    source = batches(0)
    timed("reader and masks, in this process", lambda: next(source))
    item: MaskedBatch = next(source)
    views, plain = views_by(config.views), views_by(dataclasses.replace(config.views, policy="none"))
    timed("views, crops alone", lambda: seen_of(item, plain))
    timed(f"views, {config.views.policy} policy", lambda: seen_of(item, views))
    seen = seen_of(item, views)
    timed("teacher forward", lambda: step.teach(seen))
    timed("whole step of both networks", lambda: step(seen))
    workers = int(choose_workers(-1, 1).value)
    source = batches(workers)
    timed(
        f"training: all of it, {workers} data worker(s)",
        lambda: step(seen_of(next(source), views)),
    )
    operations = step_operations(step.student, config)
    rate = matmul_rate(device.type, precision)
    print(measuring.in_words(measuring.setting(device)))
    print(f"{precision}, batch {config.train.batch}")
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
