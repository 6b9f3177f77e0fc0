"""Block masks of the student's global views, as in BEiT (arXiv 2106.08254), drawn for the whole global batch.

Every view's mask is a function of (seed, step, view's row) alone, so a rank draws only its own slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from umbel.random_stream import Purpose, stream

TRIES = 10


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How much of the global views the student does not see."""

    views: float = 0.5
    """Share of the global views that are masked."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Share of a masked view's patches; the masked views spread evenly over this range."""
    smallest_block: int = 4
    """Patches of the smallest block."""
    aspect: float = 0.3
    """Least aspect ratio of a block; the greatest is its inverse."""

    def __post_init__(self) -> None:
        if not 0 <= self.views <= 1:
            raise ValueError(f"masks.views is a share between 0 and 1, not {self.views}")
        if not 0 <= self.ratio[0] <= self.ratio[1] < 1:
            raise ValueError(f"masks.ratio must be two shares, 0 <= low <= high < 1, not {self.ratio}")
        if self.smallest_block < 1 or not 0 < self.aspect <= 1:
            raise ValueError("masks.smallest_block must be at least 1 and masks.aspect between 0 and 1")


def draw_masks(
    config: MaskConfig, *, seed: int, step: int, global_batch: int, rows: range, grid: tuple[int, int]
) -> np.ndarray:
    """The masks of some rows of a global batch.

    Args:
        step: optimizer step.
        global_batch: G, photographs of the whole job's batch.
        rows: the photographs wanted, of 0 .. G - 1.
        grid: patches of a global view, down and across.

    Returns:
        (2 * len(rows), P) bool, view-major: row v * len(rows) + b is global view v of rows[b].
    """
    places = stream(seed, step, Purpose.MASKS)
    masked_views = math.floor(2 * global_batch * config.views)
    # turn[w] = k: view w (view-major over the global batch) is the k-th masked one; -1: not masked.
    turn = np.full(2 * global_batch, -1)
    turn[places.permutation(2 * global_batch)[:masked_views]] = np.arange(masked_views)
    wanted_rows = np.concatenate([np.asarray(rows), global_batch + np.asarray(rows)])
    masks = np.zeros((len(wanted_rows), grid[0] * grid[1]), dtype=bool)
    low, high = config.ratio
    for mask, row in zip(masks, wanted_rows, strict=True):
        k = turn[row]
        if k < 0:
            continue
        generator = stream(seed, step, Purpose.MASKS, view=1 + int(row))
        ratio = low + (high - low) * (k + generator.random()) / masked_views
        mask[:] = block_mask(generator, grid, int(mask.size * ratio), config).ravel()
    return masks


def block_mask(generator: np.random.Generator, grid: tuple[int, int], wanted: int, config: MaskConfig) -> np.ndarray:
    """Cover about `wanted` patches (never more) with rectangles; returns (height, width) bool."""
    height, width = grid
    mask = np.zeros(grid, dtype=bool)
    count, largest = 0, height * width / 2
    spread = math.log(config.aspect)
    while count < wanted:
        left = wanted - count
        for area_u, aspect_u, top_u, left_u in generator.random((TRIES, 4)):
            area = config.smallest_block + (min(left, largest) - config.smallest_block) * area_u
            aspect = math.exp(spread - 2 * spread * aspect_u)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h >= height or w >= width:
                continue
            top, side = int(top_u * (height - h + 1)), int(left_u * (width - w + 1))
            block = mask[top : top + h, side : side + w]
            added = h * w - int(block.sum())
            if 0 < added <= left:
                block[:] = True
                count += added
                break
        else:
            break
    return mask
