"""Boxes of random resized crops, for a whole batch at once, from uniform numbers."""

from __future__ import annotations

import numpy as np

TRIES = 10
BOX_DRAWS = 2 * TRIES + 2  # area and aspect of every try, then the place


def draw_boxes(
    uniforms: np.ndarray, size: np.ndarray, *, area: tuple[float, float], aspect: tuple[float, float]
) -> np.ndarray:
    """The boxes that torchvision's RandomResizedCrop would draw: area uniform, aspect log-uniform, ten tries.

    Where no try fits into the photograph, the box is the largest centered one with the nearest allowed aspect.

    Args:
        uniforms: (n, BOX_DRAWS) in [0, 1).
        size: (n, 2) height and width of the photographs in pixels.
        area: least and greatest share of the photograph's area.
        aspect: least and greatest width / height.

    Returns:
        (n, 4) int64: top, left, height, width.
    """
    height, width = size[:, :1].astype(np.float64), size[:, 1:].astype(np.float64)
    wanted = height * width * (area[0] + (area[1] - area[0]) * uniforms[:, :TRIES])
    low, high = np.log(aspect[0]), np.log(aspect[1])
    ratio = np.exp(low + (high - low) * uniforms[:, TRIES : 2 * TRIES])
    w = np.rint(np.sqrt(wanted * ratio))
    h = np.rint(np.sqrt(wanted / ratio))
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.argmax(1)
    rows = np.arange(len(size))
    height, width = height[:, 0], width[:, 0]
    shape = width / height
    fallback_h = np.where(shape < aspect[0], np.rint(width / aspect[0]), height)
    fallback_w = np.where(shape > aspect[1], np.rint(height * aspect[1]), width)
    found = fits.any(1)
    h = np.where(found, h[rows, first], np.minimum(fallback_h, height))
    w = np.where(found, w[rows, first], np.minimum(fallback_w, width))
    top = np.where(found, np.floor(uniforms[:, -2] * (height - h + 1)), (height - h) // 2)
    left = np.where(found, np.floor(uniforms[:, -1] * (width - w + 1)), (width - w) // 2)
    return np.stack([top, left, h, w], axis=1).astype(np.int64)
