"""Embeddings of augmented views of photographs, computed once and kept in memory: what CroVCA trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umbel.augment.views import GLOBAL_VIEWS, Views, ViewsConfig
from umbel.backbones import Backbone
from umbel.backbones.folder import ModelCard
from umbel.data.index import ShardSet
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches
from umbel.machine import choose_workers
from umbel.run import Bar, UserError, say


@dataclass(frozen=True, kw_only=True)
class PhotographViewsConfig:
    """Which views are embedded."""

    rounds: int = 2
    """Rounds of two views: 2 x rounds embeddings of every photograph."""
    area: tuple[float, float] = (0.4, 1.0)
    """Share of the photograph that a view covers."""
    policy: str = "plant"
    """What follows the crop: plant, plant-paper, dinov2 or none."""
    canvas: int = 512
    """Longer side of a decoded photograph in pixels."""
    batch: int = 64
    """Photographs embedded at a time."""
    workers: int = -1
    """Processes that decode; -1: chosen by the processors at hand, 0: this process."""

    def __post_init__(self) -> None:
        for name, low in (("rounds", 1), ("batch", 1), ("canvas", 16), ("workers", -1)):
            if getattr(self, name) < low:
                raise ValueError(f"photographs.{name} must be at least {low}, not {getattr(self, name)}")
        ViewsConfig(global_area=self.area, policy=self.policy)


def make_views(card: ModelCard, config: PhotographViewsConfig, *, seed: int, device: torch.device) -> Views:
    """Two views of each photograph with the backbone's own mean, deviation and input size."""
    sizes = ViewsConfig(global_size=card.image_size, local_views=0, global_area=config.area, policy=config.policy)
    return Views(sizes, seed=seed, mean=card.mean, std=card.std, device=device)


@torch.inference_mode()
def view_embeddings(
    backbone: Backbone,
    shards: ShardSet,
    *,
    seed: int = 0,
    device: str = "cpu",
    config: PhotographViewsConfig | None = None,
) -> tuple[Tensor, np.ndarray]:
    """Embed 2 x rounds views of every photograph; photographs that cannot be decoded are left out and told.

    Returns:
        (2 * rounds, n, C) float32 on `device`, photographs in the order of their shards; (n,) int64, which samples
        they are.

    Raises:
        UserError: no photograph can be used.
    """
    config = config or PhotographViewsConfig()
    target = torch.device(device)
    views = make_views(backbone.card, config, seed=seed, device=target)
    dataset = TrainingDataset(shards, seed=seed, canvas=config.canvas, window=1)
    count = len(dataset)
    batches = [list(range(first, min(first + config.batch, count))) for first in range(0, count, config.batch)]
    workers = int(choose_workers(config.workers, 1).value)
    loader = training_batches(dataset, batches, collate=_as_it_is, workers=workers, pin=False)
    model = backbone.model.to(target).eval()
    out = torch.empty((GLOBAL_VIEWS * config.rounds, count, backbone.dim), device=target)
    bad: dict[int, str] = {}
    with Bar("embedding views", count) as bar, loader as found:
        for batch in found:
            bad |= dict(batch.bad)
            canvas = batch.canvas.to(target)
            for number in range(config.rounds):
                # A photograph is decoded once; its rounds are epochs of the stream of views.
                images, _ = views(canvas, batch.size, np.full_like(batch.epoch, number), batch.position)
                features = model(images).view(GLOBAL_VIEWS, len(canvas), -1)
                first = GLOBAL_VIEWS * number
                out[first : first + GLOBAL_VIEWS, torch.from_numpy(batch.sample).to(target)] = features.float()
            bar.advance(len(canvas))
    good = _good(count, bad, shards)
    return out[:, good] if bad else out, np.array(good, np.int64)


def _as_it_is(batch: Any) -> Any:
    """The dataset hands out whole batches."""
    return batch


def _good(count: int, bad: dict[int, str], shards: ShardSet) -> list[int]:
    """Samples that could be decoded; the others' slots hold another's views."""
    for sample, reason in list(bad.items())[:5]:
        say(f"left out: {shards.key(sample)}: {reason}.")
    if bad:
        say(f"left out: {len(bad)} of {count} photographs, which cannot be decoded.")
    good = [sample for sample in range(count) if sample not in bad]
    if not good:
        raise UserError("none of the photographs can be decoded.")
    return good
