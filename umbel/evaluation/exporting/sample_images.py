"""Photographs for self-tests that need no data: dead leaves, whose statistics are those of natural images.

Source: A. B. Lee, D. Mumford and J. Huang, Occlusion Models for Natural Images, IJCV 41, 2001.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

LEAVES, SMALLEST = 300, 4


def dead_leaves(count: int, *, width: int, height: int, seed: int = 0) -> list[Image.Image]:
    """Pictures of disks that cover one another, their radii r as often as 1 / r^3, shaded and with a little noise."""
    generator = np.random.default_rng([seed, width, height])
    rows, columns = np.mgrid[:height, :width]
    largest = max(width, height) / 3
    pictures = []
    for _ in range(count):
        canvas = np.full((height, width, 3), generator.integers(0, 256, 3), dtype=np.float64)
        for _ in range(LEAVES):
            radius = (SMALLEST**-2 - generator.random() * (SMALLEST**-2 - largest**-2)) ** -0.5
            x, y = generator.random() * width, generator.random() * height
            down = slice(max(0, int(y - radius)), int(y + radius) + 2)
            across = slice(max(0, int(x - radius)), int(x + radius) + 2)
            part, aside = canvas[down, across], columns[down, across] - x
            inside = aside**2 + (rows[down, across] - y) ** 2 < radius**2
            # One side in the light.
            part[inside] = generator.integers(0, 256, 3) * (1 + 0.3 * aside[inside] / radius)[:, None]
        canvas += generator.normal(0, 4, canvas.shape)
        pictures.append(Image.fromarray(canvas.clip(0, 255).astype(np.uint8)))
    return pictures
