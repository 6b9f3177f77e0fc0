"""What masks cost in a data worker, beside decoding a photograph and beside its training step."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from umbel.data.decode import decode
from umbel.data.index import open_shards
from umbel.data.reader import ShardReader
from umbel.data.synthetic import draw
from umbel.ssl.losses import patch_weights
from umbel.ssl.masking import draw_masks
from umbel.ssl.pretrain_config import PretrainConfig

CANVAS = 512


def photographs(data: str | None) -> list[bytes]:
    """Some photographs of shards, or drawn plants of 375 x 500 px."""
    if data is not None:
        shards = open_shards(data)
        reader = ShardReader(shards)
        return [reader.read(sample, "jpg") for sample in range(min(len(shards), 64))]
    jpgs = []
    for index in range(6):
        buffer = io.BytesIO()
        Image.fromarray(draw(0, index, size=500).image[:375]).save(buffer, "JPEG", quality=90)
        jpgs.append(buffer.getvalue())
    return jpgs


def decoding_seconds(jpgs: list[bytes]) -> float:
    """Of one photograph, one thread."""
    return seconds_of(lambda number: decode(jpgs[number % len(jpgs)], canvas=CANVAS), max(64, len(jpgs)))


def mask_seconds(config: PretrainConfig, patch: int) -> float:
    """Of one photograph's masks in its batch, with the places and weights that go along, one thread."""
    batch, side = config.train.batch, config.views.global_size // patch

    def masks(step: int) -> None:
        arguments: dict[str, Any] = {"seed": 0, "step": step, "global_batch": batch, "rows": range(batch)}
        found = torch.from_numpy(draw_masks(config.masks, **arguments, grid=(side, side)))
        found.flatten().nonzero()
        patch_weights(found)

    return seconds_of(masks, 15) / batch


def seconds_of(run: Callable[[int], object], count: int) -> float:
    """The median of some calls, each given its number."""
    times = []
    for number in range(count):
        started = time.perf_counter()
        run(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times)
