"""Micro-batches on their way to the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umbel.data.batch import Batch
from umbel.data.order import Slices
from umbel.ssl.feed import AddMasks, MaskedBatch, to_device
from umbel.ssl.losses import patch_weights
from umbel.ssl.masking import MaskConfig, draw_masks

GRID = (4, 4)


def make_batch(cursors: list[int]) -> Batch:
    cursor = np.array(cursors)
    canvas = torch.randint(0, 256, (len(cursor), 3, 9, 7), generator=torch.Generator().manual_seed(cursors[0]))
    return Batch(
        canvas=canvas.to(torch.uint8),
        size=torch.tensor([[9, 7]] * len(cursor)),
        cursor=cursor,
        epoch=cursor // 100,
        position=cursor % 100,
        sample=cursor,
        label=np.full(len(cursor), -1),
        bad=[],
    )


def batches(count: int) -> list[MaskedBatch]:
    add = AddMasks(config=MaskConfig(), seed=3, slices=Slices(micro_batch=4, accumulation=2), grid=GRID)
    return [add(make_batch(list(range(4 * i, 4 * i + 4)))) for i in range(count)]


@pytest.mark.parametrize("number", [0, 1, 4])
def test_masks_are_those_of_the_micro_batchs_place_in_the_global_batch(number: int) -> None:
    item = batches(5)[number]
    step, place = divmod(number, 2)
    rows = range(4 * place, 4 * place + 4)
    expected = torch.from_numpy(draw_masks(MaskConfig(), seed=3, step=step, global_batch=8, rows=rows, grid=GRID))
    assert expected.any()
    assert torch.equal(item.masks, expected)
    assert item.masked.tolist() == [i for i, masked in enumerate(expected.flatten().tolist()) if masked]
    assert torch.equal(item.weights, patch_weights(expected))


def test_on_a_cpu_batches_pass_as_they_are() -> None:
    given = batches(3)
    passed = list(to_device(iter(given), torch.device("cpu")))
    assert all(a is b for a, b in zip(passed, given, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("count", [0, 1, 5])
def test_on_a_gpu_each_batch_arrives_once_and_whole(count: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    device = torch.device("cuda", 0)
    pinned = [item.pin_memory() for item in batches(count)]
    arrived = 0
    for item, expected in zip(to_device(iter(pinned), device), batches(count), strict=True):
        arrived += 1
        assert item.batch.canvas.device == device
        assert torch.equal(item.batch.canvas.cpu(), expected.batch.canvas)
        assert torch.equal(item.batch.size, expected.batch.size)
        for name in ("masks", "masked", "weights"):
            assert torch.equal(getattr(item, name).cpu(), getattr(expected, name)), name
    assert arrived == count
