"""Checks of the GPU suite: crops, views and transfers on the device beside those on the CPU."""

from __future__ import annotations

import itertools

import torch
from gpu_context import Context
from gpu_rows import Row, row, share
from step import masked_batches
from torch import Tensor, nn

from umbel.augment.crops import crop
from umbel.augment.policy import POLICIES
from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig
from umbel.data.index import PRETRAINING_SPLITS, open_shards
from umbel.ssl.feed import to_device


def photographs_like(count: int, height: int, width: int) -> Tensor:
    """(count, 3, height, width) uint8, noise on a coarse pattern: both edges and smooth parts."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((count, 3, 8, 8), generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    noise = torch.rand((count, 3, height, width), generator=generator)
    return (255 * (0.8 * smooth + 0.2 * noise)).to(torch.uint8)


def crops(context: Context) -> list[Row]:
    """Crops on the device against torchvision's on the CPU, in levels of 255, reduced and enlarged ones."""
    height, width, sides = (48, 64, (32, 16)) if context.tiny else (375, 500, (224, 96))
    canvas, count = photographs_like(8, height, width), 16 if context.tiny else 128
    generator = torch.Generator().manual_seed(1)
    boxes = []
    for _ in range(count):
        h, w = (int(torch.randint(size // 5, size + 1, (), generator=generator)) for size in (height, width))
        top, left = (int(torch.randint(0, free + 1, (), generator=generator)) for free in (height - h, width - w))
        boxes.append([top, left, h, w])
    source, flip = torch.arange(count) % len(canvas), torch.arange(count) % 2 == 0
    rows = []
    for side in sides:
        expected = crop(canvas, source, torch.tensor(boxes), flip, size=side)
        found = crop(canvas.to(context.device), source, torch.tensor(boxes), flip, size=side).cpu()
        levels = ((found - expected) * 255).abs()
        rows.append(row(f"crops of {side} px: largest difference in levels", float(levels.max()), 2.001))
        rows.append(row(f"crops of {side} px: share off by more than 1", share(levels > 1.001), 1e-4))
        rows.append(row(f"crops of {side} px: share off by 1", share(levels > 0.5), 0.01))
    return rows


def views(context: Context) -> list[Row]:
    """Whole views of every policy, compiled on the device against plain Kornia on the CPU, in levels of 255."""
    height, width, batch = (48, 64, 4) if context.tiny else (375, 500, 16)
    canvas, size = photographs_like(batch, height, width), torch.tensor([[height, width]] * batch)
    position = torch.arange(batch).numpy()
    rows = []
    for policy in POLICIES:
        config = ViewsConfig(policy=policy)
        if context.tiny:
            config = ViewsConfig(policy=policy, global_size=32, local_size=16, local_views=2)
        made = []
        for device in (context.device, torch.device("cpu")):
            way = {"plain": True} if device.type == "cpu" else {"compiled": True}
            maker = Views(config, seed=0, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=device, **way)
            made.append(maker(canvas.to(device), size, 0 * position, position))
        for name, found, expected in zip(("global", "local"), *made, strict=True):
            std = torch.tensor(INAT_PLANTAE_STD).view(1, 3, 1, 1)
            levels = ((found.cpu() - expected) * std * 255).abs()
            # A level of difference in a crop may fall to either side of posterize's or solarize's edge.
            rows.append(row(f"{policy}, {name} views: share off by more than 2 levels", share(levels > 2.001), 5e-3))
            rows.append(row(f"{policy}, {name} views: mean difference in levels", float(levels.mean()), 0.05))
    return rows


def transfer(context: Context) -> list[Row]:
    """Batches that came over pinned memory while the device was busy, against the CPU's own."""
    config = context.config("ViT-S", 8 if context.tiny else 64)
    shards = open_shards(context.photographs()).select(PRETRAINING_SPLITS)
    patch, count = config.backbone.patch or 16, 6 if context.tiny else 40
    busy = torch.randn(64 if context.tiny else 4096, 64 if context.tiny else 4096, device=context.device)
    arrived = []
    cuda = context.device.type == "cuda"
    with masked_batches(config, shards, patch=patch, workers=2, pin=cuda) as batches:
        for item in itertools.islice(to_device(batches, context.device), count):
            for _ in range(4):
                busy = (busy @ busy).clamp(-1, 1)
            # Copied on the device, after the work: memory that is overwritten too early shows here.
            arrived.append([t.clone() for t in (item.batch.canvas, item.masks, item.masked, item.weights)])
    wrong = 0
    with masked_batches(config, shards, patch=patch, workers=0, pin=False) as batches:
        for found in arrived:
            item = next(batches)
            expected = (item.batch.canvas, item.masks, item.masked, item.weights)
            wrong += any(not torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
    return [row(f"batches of {count} that differ after the transfer", wrong, 0)]
