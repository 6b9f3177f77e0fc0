"""A network's pooled feature and its grid of local ones, for teachers and students of any kind."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from umbel.run import UserError


class Features(NamedTuple):
    """What a network says of photographs."""

    pooled: Tensor  # (B, C)
    grid: Tensor | None  # (B, h, w, C'), where it was asked for


class Shape(NamedTuple):
    """Widths of a network's features at one size of image."""

    pooled: int
    grid: int | None
    """None: it has no grid."""


def read_features(network: Any, images: Tensor, *, grid: bool) -> Features:
    """Pooled as `network(images)` gives it; the grid is a ViT's patches after the final norm or a ConvNeXt's last map.

    Args:
        images: (B, 3, S, S).
        grid: whether the grid is wanted.
    """
    if not hasattr(network, "forward_head"):
        # A tower of open_clip's projects what it pools, and gives its tokens in a pass of their own.
        return Features(network(images), as_grid(network, network.forward_features(images)) if grid else None)
    found = network.forward_features(images)
    pooled = network.forward_head(found, pre_logits=True)
    return Features(pooled, as_grid(network, found) if grid else None)


def as_grid(network: Any, found: Tensor) -> Tensor:
    """Last features of a network, tokens or a map -> (B, h, w, C).

    Raises:
        ValueError: neither, or patches that make no square.
    """
    if found.ndim == 4:
        return found if getattr(network, "output_fmt", "NCHW") == "NHWC" else found.permute(0, 2, 3, 1)
    if found.ndim != 3:
        raise ValueError(f"features of shape {tuple(found.shape)} have no places")
    before, behind = getattr(network, "norm", None), getattr(network, "fc_norm", None)
    # A ViT that pools before it norms has the final norm behind its pooling.
    if isinstance(before, nn.Identity) and isinstance(behind, nn.Module):
        found = behind(found)
    patches = found[:, getattr(network, "num_prefix_tokens", 0) :]
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1] or not side:
        raise ValueError(f"{patches.shape[1]} patches make no square")
    return patches.reshape(len(patches), side, side, patches.shape[2])


@torch.no_grad()
def shape_of(network: Any, name: str, side: int) -> Shape:
    """The widths at images of side x side pixels, by one pass of an empty image.

    Raises:
        UserError: the network does not take such images.
    """
    some = next(network.parameters())
    image = torch.zeros(1, 3, side, side, device=some.device, dtype=some.dtype)
    try:
        pooled = int(read_features(network, image, grid=False).pooled.shape[-1])
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{name} cannot see images of {side} px ({reason}).") from error
    try:
        grid = read_features(network, image, grid=True).grid
    except (AttributeError, ValueError):
        return Shape(pooled, None)
    assert grid is not None
    return Shape(pooled, int(grid.shape[-1]))
