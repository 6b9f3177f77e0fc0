"""Antialiased bicubic crops of a batch of canvases, all of one size.

On a CPU torchvision's uint8 resize is fastest; on a GPU two batched matrix products with each image's resampling
weights do the same without a loop. On the same boxes the two agree to one level of 255, and to two in at most one
enlarged pixel of ten thousand (torchvision's weights are whole numbers).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resized_crop

CUBIC = -0.5  # Keys' coefficient, as Pillow and torch use it with antialias


def crop(canvas: Tensor, source: Tensor, boxes: Tensor, flip: Tensor, *, size: int) -> Tensor:
    """Cut, resize and mirror.

    Args:
        canvas: (B, 3, H, W) uint8.
        source: (n,) row of the canvas that each crop is cut from.
        boxes: (n, 4) int64 top, left, height, width.
        flip: (n,) bool, mirrored left to right.
        size: side of the crops in pixels.

    Returns:
        (n, 3, size, size) float32 in [0, 1], whole levels of 255.
    """
    if not canvas.is_cuda:
        return _crop_one_by_one(canvas, source, boxes, flip, size)
    crops = _crop_by_products(canvas, source, boxes, size)
    return torch.where(flip.to(crops.device)[:, None, None, None], crops.flip(-1), crops)


def _crop_one_by_one(canvas: Tensor, source: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    out = torch.empty((len(source), 3, size, size))
    for row, (image, box, mirrored) in enumerate(zip(source.tolist(), boxes.tolist(), flip.tolist(), strict=True)):
        cut = resized_crop(
            canvas[image], *box, size=[size, size], interpolation=InterpolationMode.BICUBIC, antialias=True
        )
        torch.div(cut.flip(-1) if mirrored else cut, 255, out=out[row])
    return out


def _crop_by_products(canvas: Tensor, source: Tensor, boxes: Tensor, size: int) -> Tensor:
    boxes, source = boxes.to(canvas.device), source.to(canvas.device)
    rows = resampling_weights(boxes[:, 0], boxes[:, 2], canvas.shape[2], size)
    columns = resampling_weights(boxes[:, 1], boxes[:, 3], canvas.shape[3], size)
    images = canvas[source].float()
    # torchvision rounds to uint8 between its two passes (columns first), and so do we: the results stay equal.
    wide = (images @ columns.transpose(1, 2)[:, None]).round_().clamp_(0, 255)
    return (rows[:, None] @ wide).round_().clamp_(0, 255).div_(255)


def resampling_weights(start: Tensor, length: Tensor, extent: int, size: int) -> Tensor:
    """Weights of an antialiased bicubic resize of the pixels [start, start + length) to `size`.

    Args:
        start, length: (n,) int64.
        extent: pixels of the canvas along this axis.

    Returns:
        (n, size, extent) float32; rows sum to 1, zero outside the box.
    """
    length_f = length.float()[:, None, None]
    scale = length_f / size
    support = scale.clamp(min=1)
    center = start.float()[:, None, None] + scale * (torch.arange(size, device=start.device) + 0.5)[:, None]
    pixel = torch.arange(extent, device=start.device)
    x = ((pixel + 0.5 - center) / support).abs()
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * CUBIC - 4 * CUBIC
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = weights * inside
    return weights / weights.sum(-1, keepdim=True)
