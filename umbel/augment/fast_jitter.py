"""The color jitter without Kornia's intermediate images; equal to it within 5e-6 on the same parameters.

On a CPU an image stays in the cache while its four steps run in place. On a GPU one compiled function does all images
at once, each in its own order: a launch for each order and step would cost more than the arithmetic.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

GRAY = (0.299, 0.587, 0.114)
# Where red, green and blue stand on the circle of hues, in sixths of a turn.
CENTERS = (0.0, 2.0, -2.0)
LEAST_CHROMA = 1e-8  # a pixel without chroma has no hue: anything finite will do, since it is multiplied by the chroma


def jitter_image(image: Tensor, factors: Sequence[float], order: Sequence[int]) -> None:
    """One image, in place.

    Args:
        image: (3, H, W) float32 in [0, 1].
        factors: of brightness, contrast and saturation, then the turn of the hue in whole turns.
        order: the numbers 0 to 3 of those steps, as they follow each other.
    """
    for step in order:
        _STEPS[step](image, factors[step])


def _brightness(image: Tensor, factor: float) -> None:
    image.mul_(factor).clamp_(0, 1)


def _contrast(image: Tensor, factor: float) -> None:
    red, green, blue = image.mean((1, 2)).tolist()
    mean = GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue
    image.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturation(image: Tensor, factor: float) -> None:
    gray = (image[0] * GRAY[0]).add_(image[1], alpha=GRAY[1]).add_(image[2], alpha=GRAY[2])
    image.mul_(factor).add_(gray, alpha=1 - factor).clamp_(0, 1)


def _hue(image: Tensor, turn: float) -> None:
    red, green, blue = image
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    # Times chroma, in -3 to 3 sixths of a turn.
    at_green, at_blue = (blue - red).add_(chroma, alpha=2), (red - green).sub_(chroma, alpha=2)
    hue = torch.where(high == red, green - blue, torch.where(high == green, at_green, at_blue))
    hue.div_(chroma.clamp_min(LEAST_CHROMA)).add_(6 * turn)
    if abs(6 * turn) > 1:  # further, and the distances below would leave the one turn that they are right for
        hue.sub_(torch.round(hue / 6), alpha=6)
    # A channel has all of the chroma within a sixth of a turn of its own hue, none from two sixths on.
    torch.sub(hue, _CENTERS, out=image)
    image.abs_().sub_(3).abs_().sub_(1).clamp_(0, 1).mul_(chroma).add_(low)


_CENTERS = torch.tensor(CENTERS)[:, None, None]
_STEPS = (_brightness, _contrast, _saturation, _hue)


def jitter_batch(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """All images of a batch, each in its own order.

    Args:
        images: (n, 3, H, W) in [0, 1].
        factors: (n, 4) as of `jitter_image`.
        order: (n, 4) numbers of the steps; a negative number is no step.

    Returns:
        (n, 3, H, W), the jittered images.
    """
    for turn in range(4):
        step, factor = (x[:, turn, None, None, None] for x in (order, factors.gather(1, order.clamp(min=0))))
        gray = GRAY[0] * images[:, :1] + GRAY[1] * images[:, 1:2] + GRAY[2] * images[:, 2:]
        other = torch.where(step == 0, 0.0, torch.where(step == 1, gray.mean((2, 3), keepdim=True), gray))
        blended = (images * factor + other * (1 - factor)).clamp(0, 1)
        images = torch.where(step < 0, images, torch.where(step == 3, _turned(images, factor), blended))
    return images


def _turned(images: Tensor, turn: Tensor) -> Tensor:
    """(n, 3, H, W) and (n, 1, 1, 1) whole turns of the hue."""
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    at_green, at_blue = blue - red + 2 * chroma, red - green - 2 * chroma
    hue = torch.where(high == red, green - blue, torch.where(high == green, at_green, at_blue))
    hue = hue / chroma.clamp_min(LEAST_CHROMA) + 6 * turn
    hue = hue - 6 * torch.round(hue / 6)
    return torch.cat([(((hue - c).abs() - 3).abs() - 1).clamp(0, 1) * chroma + low for c in CENTERS], 1)


@functools.cache
def compiled_jitter_batch() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`jitter_batch` as fused kernels, for each shape apart: a run has two."""
    return torch.compile(jitter_batch, dynamic=False)
