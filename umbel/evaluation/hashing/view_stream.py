"""Views of photographs as they are trained on, batch by batch: what an encoder that changes has to see anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umbel.augment.views import GLOBAL_VIEWS
from umbel.backbones.folder import ModelCard
from umbel.data.index import ShardSet
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches
from umbel.evaluation.hashing.photograph_views import PhotographViewsConfig, make_views
from umbel.machine import choose_workers

WINDOW = 8
"""Shards whose photographs are mixed."""


@dataclass(frozen=True, kw_only=True)
class ViewBatch:
    """Two views of each of n photographs."""

    images: Tensor  # (2, n, 3, S, S), normalized
    sample: np.ndarray  # (n,) int64


def view_batches(
    card: ModelCard,
    shards: ShardSet,
    *,
    epochs: range,
    batch: int,
    seed: int,
    device: torch.device,
    config: PhotographViewsConfig,
) -> Iterator[ViewBatch]:
    """Every photograph once an epoch, the remainder dropped, its views new in each; damaged ones are left out.

    Args:
        epochs: their numbers; order and views are functions of them and of `seed`.
    """
    dataset = TrainingDataset(shards, seed=seed, canvas=config.canvas, window=min(WINDOW, len(shards.shards)))
    views = make_views(card, config, seed=seed, device=device)
    count = len(dataset)
    batches = [
        list(range(epoch * count + first, epoch * count + first + batch))
        for epoch in epochs
        for first in range(0, count - batch + 1, batch)
    ]
    workers = int(choose_workers(config.workers, 1).value)
    with training_batches(dataset, batches, collate=_as_it_is, workers=workers, pin=False) as found:
        for one in found:
            images, _ = views(one.canvas.to(device), one.size, one.epoch, one.position)
            images = images.view(GLOBAL_VIEWS, len(one.sample), *images.shape[1:])
            good = ~np.isin(one.sample, [sample for sample, _ in one.bad])
            if good.all():
                yield ViewBatch(images=images, sample=one.sample)
            elif good.sum() > 1:
                yield ViewBatch(images=images[:, torch.from_numpy(good).to(device)], sample=one.sample[good])


def _as_it_is(batch: Any) -> Any:
    """The dataset hands out whole batches."""
    return batch
