"""Where a patch stands: learned positions resized by a fixed linear map, and rotary ones.

timm resizes learned positions in float32 whatever their type; here the map is a float64 matrix, so that the gradient
of two ranks with half a batch each equals one rank's.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


@functools.lru_cache(maxsize=64)
def resize_matrix(old: Grid, new: Grid, device: torch.device) -> Tensor:
    """Bicubic, antialiased resizing of a grid (offset 0, as timm's) as a matrix: (new h * w, old h * w) float64.

    Column j is what becomes of the j-th unit vector.
    """
    # A tensor made under inference_mode could not serve a later training step.
    with torch.inference_mode(False), torch.no_grad():
        units = torch.eye(old[0] * old[1], dtype=torch.float64, device="cpu").view(-1, 1, *old)
        resized = F.interpolate(units, size=new, mode="bicubic", antialias=True, align_corners=False)
        return resized.flatten(1).T.contiguous().to(device)


def learned_positions(backbone: Any, grid: Grid) -> Tensor:
    """The backbone's position embedding for a grid of patches.

    Args:
        backbone: a timm ViT or Eva with `pos_embed`, which may begin with the prefix tokens' own positions.
        grid: patches down and across.

    Returns:
        (1, [prefix +] h * w, C): the parameter itself where the grid is the one it was made for.
    """
    positions: Tensor = backbone.pos_embed
    old = tuple(backbone.patch_embed.grid_size)
    if old == grid:
        return positions
    inside = 0 if backbone.no_embed_class else int(backbone.num_prefix_tokens)
    matrix = resize_matrix(old, grid, positions.device)
    # In float64: small, and neither autocast nor TF32 touches it.
    resized = (matrix @ positions[:, inside:].double()).to(positions.dtype)
    return torch.cat([positions[:, :inside], resized], dim=1) if inside else resized


def add_positions(backbone: Any, x: Tensor) -> Tensor:  # (n, h, w, C) -> (n, N, C)
    """Class token, registers and patches in a row, learned positions added; as timm's `_pos_embed`, without dropout."""
    n, height, width, _ = x.shape
    x = x.flatten(1, 2)
    prefix = [token.expand(n, -1, -1) for token in (backbone.cls_token, backbone.reg_token) if token is not None]
    if backbone.pos_embed is None:
        return torch.cat([*prefix, x], dim=1)
    positions = learned_positions(backbone, (height, width))
    if backbone.no_embed_class:
        return torch.cat([*prefix, x + positions], dim=1)
    return torch.cat([*prefix, x], dim=1) + positions


class RotaryPositions:
    """The rotary embedding that each block of an Eva takes, kept for every grid where it is constant.

    timm makes it on the CPU in every forward pass, and its copy to a GPU would wait for the GPU.
    """

    def __init__(self) -> None:
        self.kept: dict[tuple[Grid, torch.device, torch.dtype], Tensor] = {}

    def __call__(self, backbone: Any, grid: Grid) -> list[Tensor | None]:
        """One embedding for each block, None without rotary positions.

        The embedding is (h * w, 2 * head width), shared by the images of a batch, or (heads, h * w, head width) where
        every block has its own.
        """
        rope = getattr(backbone, "rope", None)
        depth = len(backbone.blocks)
        if rope is None:
            return [None] * depth
        learned = next(rope.parameters(), None) is not None
        if learned or (rope.training and getattr(rope, "aug_active", False)):
            embedding = rope.get_embed(shape=list(grid))
        else:
            key = (grid, backbone.cls_token.device, backbone.cls_token.dtype)
            if key not in self.kept:
                with torch.inference_mode(False), torch.no_grad():
                    self.kept[key] = rope.get_embed(shape=list(grid))
            embedding = self.kept[key]
        return list(embedding) if backbone.rope_mixed else [embedding] * depth
