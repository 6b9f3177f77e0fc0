"""Features without learning, to stand beside learned ones: color histogram, raw pixels, the untrained backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import timm
import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from umbel.backbones import Backbone, open_clip_tower
from umbel.data.index import ShardSet
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.extract import extract
from umbel.evaluation.tokens import TokenReader

LEVELS, SIDE = 8, 32


def color_histogram(photograph: Tensor) -> Tensor:
    """Square root of the share of pixels in each of 8 x 8 x 8 RGB cells.

    The root makes cosine similarity Bhattacharyya's coefficient, made for histograms: without it a few large cells
    decide, and on photographs of flowers the baseline loses a third of its accuracy.

    Args:
        photograph: (3, H, W) uint8.

    Returns:
        (512,) float32 of length 1; cell 64 r + 8 g + b.
    """
    red, green, blue = (photograph.flatten(1) // (256 // LEVELS)).long()
    cells = (red * LEVELS + green) * LEVELS + blue
    share: Tensor = torch.bincount(cells, minlength=LEVELS**3).float() / cells.numel()
    return share.sqrt()


def raw_pixels(photograph: Tensor) -> Tensor:
    """The photograph, (3, H, W) uint8, resized (antialiased) to 32 x 32: (3072,) float32 in [0, 1], channel first."""
    small: Tensor = resize(photograph, [SIDE, SIDE], antialias=True)
    return small.flatten().float() / 255


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {"color histogram": color_histogram, "raw pixels": raw_pixels}


def baseline_embeddings(
    shards: ShardSet, *, batch: int = 256, workers: int = 0, splits: Sequence[str] | None = None
) -> dict[str, Embeddings]:
    """Every baseline's features of the photographs that `embed` would embed; each is decoded once.

    Raises:
        UserError: see `umbel.evaluation.embed.embed`.
    """
    reading: dict[str, Any] = {"batch": batch, "workers": workers, "splits": splits}
    both = extract(shards, _all, nn.Identity(), provenance={}, title="describing photographs", **reading)
    ends = np.cumsum([LEVELS**3, 3 * SIDE**2])
    return {
        name: dataclasses.replace(both, features=features, provenance=both.provenance | {"features": name})
        for name, features in zip(BASELINES, np.split(both.features, ends[:-1], axis=1), strict=True)
    }


def _all(image: Image) -> Tensor:
    """All baselines of a photograph, one behind the other."""
    photograph = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    return torch.cat([make(photograph) for make in BASELINES.values()])


def untrained(backbone: Backbone, *, seed: int) -> Backbone:
    """The same architecture, by the backbone's card, with fresh weights from the seed; transform and tokens stay."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        name = backbone.card.architecture
        model: nn.Module
        if name.startswith(open_clip_tower.PREFIX):
            model = open_clip_tower.load_tower(name.removeprefix(open_clip_tower.PREFIX), weights=False)
        else:
            model = timm.create_model(name, pretrained=False, num_classes=0, **backbone.card.arguments)
    if isinstance(backbone.model, TokenReader):
        model = TokenReader(model, backbone.model.tokens)
    return dataclasses.replace(backbone, model=model.eval(), source=f"untrained {name}")
