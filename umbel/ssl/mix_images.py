"""Images that are mixed in pairs: mixup (arXiv 1710.09412) blends two, cutmix (arXiv 1905.04899) pastes a box.

Partners are neighbors in the global batch, whose order is random anyway, and every number is drawn from the stream of
(seed, step, row): what is mixed depends neither on ranks nor on accumulation, and a continued run mixes the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

# scipy comes with scikit-learn.
from scipy.special import betaincinv  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from umbel.random_stream import Purpose, position_uniforms
from umbel.ssl.learner import Labels

DRAWS = 4


@dataclass(frozen=True, kw_only=True)
class MixImagesConfig:
    """How often images are mixed, and how much."""

    mixup: float = 0.0
    """Share of the images that are blended with another."""
    cutmix: float = 0.0
    """Share of the images that get a box of another."""
    mixup_alpha: float = 0.8
    """Mixup: the image's own share is drawn from Beta(alpha, alpha)."""
    cutmix_alpha: float = 1.0
    """Cutmix: the share of the image's own area is drawn from Beta(alpha, alpha)."""

    def __post_init__(self) -> None:
        # So written, NaN fails too.
        if not (self.mixup >= 0 and self.cutmix >= 0 and self.mixup + self.cutmix <= 1):
            raise ValueError(
                f"mix.mixup and mix.cutmix are shares that sum to 1 at most, not {self.mixup:g} and {self.cutmix:g}"
            )
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0 < getattr(self, name) <= 100:
                raise ValueError(f"mix.{name} must be positive and at most 100, not {getattr(self, name):g}")

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup + self.cutmix > 0


class MixDraws(NamedTuple):
    """What was drawn for the rows of a micro-batch."""

    own: np.ndarray
    """(B,) float64, the image's own share; of cutmix exactly that of its area. 1: not mixed."""
    boxes: np.ndarray
    """(B, 4) int64 top, left, bottom, right of what the partner covers; empty but for cutmix."""


def draw_mix(config: MixImagesConfig, *, seed: int, step: int, rows: range, side: int) -> MixDraws:
    """Draw for some rows of a step's global batch.

    Args:
        rows: an even number of them from an even one on, so that partners stay together.
        side: of the images in pixels.
    """
    u = position_uniforms(seed, step, Purpose.MIX, view=0, first=rows.start, count=len(rows), draws=DRAWS)
    blended = u[:, 0] < config.mixup
    pasted = ~blended & (u[:, 0] < config.mixup + config.cutmix)
    own = np.ones(len(rows))
    own[blended] = betaincinv(config.mixup_alpha, config.mixup_alpha, u[blended, 1])
    boxes = np.zeros((len(rows), 4), dtype=np.int64)
    # The box has the image's shape; what of it lies outside is cut off, and the share follows.
    half = side * np.sqrt(1 - betaincinv(config.cutmix_alpha, config.cutmix_alpha, u[pasted, 1])) / 2
    for axis, column in enumerate((2, 3)):
        center = side * u[pasted, column]
        boxes[pasted, axis] = np.clip(np.round(center - half), 0, side)
        boxes[pasted, axis + 2] = np.clip(np.round(center + half), 0, side)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    own[pasted] = 1 - area[pasted] / side**2
    return MixDraws(own=own, boxes=boxes)


def mix_images(images: Tensor, draws: MixDraws) -> Tensor:
    """Mix each image with its neighbor: rows 0 and 1, 2 and 3, and so on.

    Args:
        images: (B, 3, S, S), B even.

    Returns:
        (B, 3, S, S), new ones.
    """
    partner = images.view(-1, 2, *images.shape[1:]).flip(1).view_as(images)
    is_pasted = draws.boxes[:, 2] > draws.boxes[:, 0]
    blend = torch.from_numpy(np.where(is_pasted, 1.0, draws.own)).to(images.device, images.dtype)[:, None, None, None]
    mixed = torch.lerp(partner, images, blend)
    for row in np.flatnonzero(is_pasted).tolist():
        top, left, bottom, right = draws.boxes[row].tolist()
        mixed[row, :, top:bottom, left:right] = partner[row, :, top:bottom, left:right]
    return mixed


def mix_labels(labels: Labels, draws: MixDraws) -> Labels:
    """The labels of mixed images.

    An image counts as its parts do: own w t + (1 - own) w' t' is the row's weight times its target.
    """
    own = torch.from_numpy(draws.own).to(labels.weight.device, torch.float32)
    theirs = labels.weight.view(-1, 2).flip(1).flatten()
    first, second = own * labels.weight, (1 - own) * theirs
    weight = first + second
    if labels.target is None:
        return Labels(target=None, weight=weight)
    other = labels.target.view(-1, 2, labels.target.shape[1]).flip(1).view_as(labels.target)
    target = (first[:, None] * labels.target + second[:, None] * other) / weight.clamp(min=1e-12)[:, None]
    return Labels(target=target, weight=weight)
