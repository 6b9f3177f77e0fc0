"""A student's grid of features at the teacher's resolution: a ConvNeXt's last map, or patches of another size."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resize_grid(grid: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize a grid bilinearly; where it shrinks, each new place averages over the old ones that it covers.

    Args:
        grid: (B, h, w, C).
        shape: rows and columns wanted.

    Returns:
        (B, *shape, C); the grid itself where it has this shape.
    """
    if tuple(grid.shape[1:3]) == shape:
        return grid
    channels_first = grid.permute(0, 3, 1, 2)
    # Without antialiasing the places between two samples of a grid that shrinks would not count.
    shrinks = grid.shape[1] > shape[0] or grid.shape[2] > shape[1]
    resized = F.interpolate(channels_first, size=shape, mode="bilinear", align_corners=False, antialias=shrinks)
    return resized.permute(0, 2, 3, 1)
