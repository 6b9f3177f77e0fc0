"""Augmentation policies: photometric and geometric operations after the crop, by Kornia with parameters drawn by us.

`plant`: colour jitter, posterize, affine; no blur, grayscale or solarize, which harm plants ("Self-Supervised Learning
of Plant Image Representations", arXiv 2604.27538).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import kornia.augmentation
import kornia.enhance
import numpy as np
import torch
from torch import Tensor

ORDERS = np.array(list(itertools.permutations(range(4))))


class Operation(Protocol):
    """An operation on some images of a batch."""

    @property
    def probability(self) -> float:
        """Of being applied to an image."""
        ...

    @property
    def draws(self) -> int:
        """Uniform numbers that an image's parameters take, the one that decides on applying apart."""
        ...

    def apply(self, images: Tensor, uniforms: np.ndarray) -> Tensor:
        """(n, 3, H, W) in [0, 1] and (n, draws) -> (n, 3, H, W)."""
        ...


def between(uniforms: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map uniform numbers from [0, 1) to [low, high)."""
    return low + (high - low) * uniforms


def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, like.dtype)


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue, in an order drawn for each image (torchvision's semantics)."""

    probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    draws: int = 5

    def apply(self, images: Tensor, uniforms: np.ndarray) -> Tensor:
        factors = [between(uniforms[:, i], 1 - s, 1 + s) for i, s in enumerate(self.strengths)]
        factors.append(between(uniforms[:, 3], -self.hue, self.hue) * 2 * math.pi)
        # Kornia's ColorJitter has one order a call: its four steps are called on the images whose turn it is.
        order = ORDERS[(uniforms[:, 4] * len(ORDERS)).astype(np.int64)]
        for turn in range(4):
            for number, step in enumerate(self.steps):
                rows = np.flatnonzero(order[:, turn] == number)
                if len(rows):
                    index = torch.from_numpy(rows).to(images.device)
                    images[index] = step(images[index], _tensor(factors[number][rows], images))
        return images

    @property
    def strengths(self) -> tuple[float, float, float]:
        """How far the multiplicative factors reach from 1."""
        return self.brightness, self.contrast, self.saturation

    @property
    def steps(self) -> tuple[Callable[[Tensor, Tensor], Tensor], ...]:
        """Kornia's functions, in the order of the factors."""
        return (
            kornia.enhance.adjust_brightness_accumulative,
            kornia.enhance.adjust_contrast_with_mean_subtraction,
            kornia.enhance.adjust_saturation_with_gray_subtraction,
            kornia.enhance.adjust_hue,
        )


@dataclass(frozen=True, kw_only=True)
class Posterize:
    """Keep the highest bits of each channel, the number drawn evenly from `bits`."""

    probability: float = 0.5
    bits: tuple[int, ...] = (3, 4, 5)
    draws: int = 1

    def apply(self, images: Tensor, uniforms: np.ndarray) -> Tensor:
        chosen = np.array(self.bits)[(uniforms[:, 0] * len(self.bits)).astype(np.int64)]
        # On whole levels of 255: the jitter leaves fractions, which would be cut off twice.
        levels = images.mul(255).round_().div_(255)
        posterize = kornia.augmentation.RandomPosterize(p=1.0)
        result: Tensor = posterize(levels, params={"bits_factor": torch.from_numpy(chosen)})
        return result


@dataclass(frozen=True, kw_only=True)
class Affine:
    """Rotation and translation; nearest neighbour, filled with 0."""

    probability: float = 0.3
    degrees: float = 10.0
    translate: float = 0.1
    """Share of the side."""
    draws: int = 3

    def apply(self, images: Tensor, uniforms: np.ndarray) -> Tensor:
        n, _, height, width = images.shape
        angle = between(uniforms[:, 0], -self.degrees, self.degrees)
        # Whole pixels, as torchvision translates.
        shift = np.rint(between(uniforms[:, 1:3], -self.translate, self.translate) * [width, height])
        zeros = images.new_zeros(n)
        parameters = {
            "angle": _tensor(angle, images),
            "translations": _tensor(shift, images),
            "center": images.new_tensor([[(width - 1) / 2, (height - 1) / 2]]).expand(n, 2),
            "scale": images.new_ones(n, 2),
            "shear_x": zeros,
            "shear_y": zeros,
        }
        affine = kornia.augmentation.RandomAffine(self.degrees, resample="nearest", align_corners=True, p=1.0)
        result: Tensor = affine(images, params=parameters)
        return result


POLICIES: dict[str, tuple[Operation, ...]] = {
    "plant": (ColorJitter(), Posterize(), Affine()),
    "none": (),
}


def policy_draws(operations: tuple[Operation, ...]) -> int:
    """Uniform numbers that a policy takes for an image."""
    return sum(1 + operation.draws for operation in operations)


def apply_policy(images: Tensor, operations: tuple[Operation, ...], uniforms: np.ndarray) -> Tensor:
    """Apply each operation to the images that drew it; `images` is overwritten.

    Args:
        images: (n, 3, H, W) in [0, 1].
        uniforms: (n, policy_draws(operations)) in [0, 1).

    Returns:
        (n, 3, H, W) in [0, 1].
    """
    column = 0
    for operation in operations:
        chosen = np.flatnonzero(uniforms[:, column] < operation.probability)
        parameters = uniforms[chosen, column + 1 : column + 1 + operation.draws]
        column += 1 + operation.draws
        if len(chosen):
            rows = torch.from_numpy(chosen).to(images.device)
            images[rows] = operation.apply(images[rows], parameters)
    return images
