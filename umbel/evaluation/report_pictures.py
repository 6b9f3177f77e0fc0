"""Pictures of a report: augmented views beside their photograph, and principal components of patch features."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from umbel.augment.own_policy import policy_name
from umbel.augment.sheet import views_sheet
from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig
from umbel.backbones import Backbone
from umbel.data.decode import decode
from umbel.data.index import ShardSet
from umbel.data.photograph import BadPhotographError
from umbel.data.reader import ShardReader
from umbel.evaluation.report_attention import of_class_token, watched, why_no_attention
from umbel.random_stream import Purpose, stream

CANVAS = 512
# A grid finer than the one trained on shows more, and positions still interpolate; beyond FINEST it only costs time.
FINER, FINEST = 4, 32


def read(reader: ShardReader, sample: int) -> Tensor | None:
    """A photograph, (3, H, W) uint8; None where it is damaged."""
    try:
        return decode(reader.read(sample, "jpg"), canvas=CANVAS)
    except BadPhotographError:
        return None


def choose(shards: ShardSet, count: int, *, seed: int, splits: tuple[str, ...]) -> list[tuple[int, Tensor]]:
    """Photographs drawn by the seed, as many classes as there are first: numbers and (3, H, W) uint8.

    Args:
        splits: wanted; all where the shards have none of them.
    """
    of_shard = np.array([shard.split in splits for shard in shards.shards])
    wanted = of_shard[shards.members["shard"]]
    rows = np.flatnonzero(wanted if wanted.any() else ~wanted)
    # The head of the order is enough: nobody needs the whole of a million shuffled.
    rows = stream(seed, 0, Purpose.ORDER).permutation(rows)[: 50 * count]
    label = shards.members["label"][rows]
    again = np.array([(label[:place] == one).sum() for place, one in enumerate(label)], dtype=np.int64)
    reader = ShardReader(shards)
    found: list[tuple[int, Tensor]] = []
    for sample in rows[np.argsort(again, kind="stable")]:
        photograph = read(reader, int(sample))
        if photograph is not None:
            found.append((int(sample), photograph))
        if len(found) == count:
            break
    return found


def sheet(config: ViewsConfig, photographs: list[Tensor], *, seed: int) -> Image.Image:
    """The views that training draws of some photographs, beside them."""
    views = Views(config, seed=seed, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=torch.device("cpu"))
    return views_sheet(photographs, {policy_name(config.policy): views})


@torch.inference_mode()
def patch_pictures(
    backbone: Backbone, photographs: list[Tensor], patch: int
) -> tuple[list[Image.Image], list[Tensor | None]]:
    """What the patches of photographs are to the backbone, which must take images of any size.

    Returns:
        for each photograph the first three principal components of the patch features of all photographs together, as
        red, green and blue, an image of one pixel a patch; and the class token's attention, (rows, columns), None where
        the backbone has none.
    """
    model: Any = backbone.model
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.card.mean, backbone.card.std))
    tokens, grids, attentions = [], [], []
    with contextlib.ExitStack() as stack:
        seen = [] if why_no_attention(model) else stack.enter_context(watched(model))
        for photograph in photographs:
            grid = patch_grid(photograph.shape[1], photograph.shape[2], trained=backbone.card.image_size // patch)
            image = resize(photograph, [grid[0] * patch, grid[1] * patch], antialias=True).float() / 255
            features = model.forward_features(((image - mean) / std)[None])[0]
            tokens.append(features[model.num_prefix_tokens :].float())
            grids.append(grid)
            # Large, and of use only as this one row.
            attentions.append(of_class_token(seen.pop(), model.num_prefix_tokens, grid) if seen else None)
    levels = (components_as_colors(torch.cat(tokens)) * 255).round().to(torch.uint8).numpy()
    parts = np.split(levels, np.cumsum([height * width for height, width in grids])[:-1])
    return [Image.fromarray(part.reshape(*grid, 3)) for part, grid in zip(parts, grids, strict=True)], attentions


def patch_grid(height: int, width: int, *, trained: int) -> tuple[int, int]:
    """Rows and columns of patches for a photograph, when the model was trained on `trained` x `trained` of them."""
    side = max(trained, min(FINER * trained, FINEST))
    # A panorama must not take all memory.
    rows, columns = (min(3 * side, round(side * max(1.0, share))) for share in (height / width, width / height))
    return rows, columns


def components_as_colors(tokens: Tensor) -> Tensor:
    """(N, C) -> (N, 3) in [0, 1]: the first three components, each between its 2nd and 98th percentile."""
    centered = tokens - tokens.mean(0)
    _, axes = torch.linalg.eigh(centered.T @ centered)
    # Largest last; the sign of an axis is arbitrary: its largest weight is made positive, so that colors repeat.
    axes = axes.flip(1)[:, :3]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    values = centered @ axes
    low, high = (torch.quantile(values[:: 1 + len(values) // 1_000_000], share, dim=0) for share in (0.02, 0.98))
    colors: Tensor = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return colors
