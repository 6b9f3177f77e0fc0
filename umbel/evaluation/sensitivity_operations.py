"""What is done to photographs when a backbone's sensitivity is measured: each operation at a few fixed strengths.

The operations are those that views are made with, at one magnitude instead of a range; only the direction (brighter or
darker, left or right) or the place is drawn. Resolution and JPEG, which no policy has, stand beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg
from torchvision.transforms.v2.functional import InterpolationMode, resize

from umbel.augment.crops import crop
from umbel.augment.geometric import Affine, Erasing, HorizontalFlip, VerticalFlip
from umbel.augment.jitter import FACTORS, ColorJitter
from umbel.augment.operation import Operation
from umbel.augment.photometric import Equalize, GaussianBlur, Grayscale, Posterize, Solarize

Apply = Callable[[Tensor, np.ndarray], Tensor]
"""(n, 3, side, side) whole levels in [0, 1], (n, DRAWS) uniforms in [0, 1) -> the same shape and range."""
DRAWS = 5
"""Uniform numbers that a change takes for a photograph, at most."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One operation at one strength."""

    operation: str
    strength: float
    """In the operation's own unit."""
    unit: str
    """What the strength says, in words; empty for an operation without strengths."""
    label: str
    """The strength for people, without its unit."""
    apply: Apply
    """Makes the change; what it is given stays as it is."""


def changes() -> tuple[Change, ...]:
    """Every operation, from its mildest strength to its strongest."""
    return (
        *_jitter("brightness", (0.1, 0.2, 0.4, 0.6, 0.8)),
        *_jitter("contrast", (0.1, 0.2, 0.4, 0.6, 0.8)),
        *_jitter("saturation", (0.2, 0.4, 0.6, 0.8, 1.0)),
        *_jitter("hue", (0.05, 0.1, 0.2, 0.3, 0.5)),
        *_each("posterize", (6, 5, 4, 3, 2), "bits kept", "{:g}", _posterize),
        *_each("rotation", (5, 10, 20, 45, 90), "degrees, ±", "{:g}", _rotation),
        *_each("translation", (0.05, 0.1, 0.2, 0.3, 0.4), "of the side, ±", "{:.0%}", _translation),
        *_each("crop", (0.8, 0.6, 0.4, 0.2, 0.08), "area kept", "{:.0%}", _crop),
        *_each("erasing", (0.05, 0.1, 0.2, 0.35, 0.5), "area covered", "{:.0%}", _erasing),
        *_each("blur", (0.0025, 0.005, 0.01, 0.02, 0.04), "deviation, of the side", "{:.2%}", _blur),
        *_each("resolution", (0.75, 0.5, 0.35, 0.25, 0.12), "of the side", "{:.0%}", _resolution),
        *_each("JPEG", (90, 70, 50, 30, 10), "quality", "{:g}", _jpeg),
        *_each("solarize", (224, 192, 128, 64, 0), "from level", "{:g}", _solarize),
        _alone("grayscale", Grayscale()),
        _alone("equalize", Equalize()),
        _alone("mirrored", HorizontalFlip()),
        _alone("upside down", VerticalFlip()),
    )


def _each(
    name: str, strengths: Sequence[float], unit: str, label: str, make: Callable[[float], Apply]
) -> tuple[Change, ...]:
    return tuple(Change(operation=name, strength=s, unit=unit, label=label.format(s), apply=make(s)) for s in strengths)


def _alone(name: str, operation: Operation) -> Change:
    return Change(operation=name, strength=1, unit="", label="", apply=_of(operation))


def _of(operation: Operation) -> Apply:
    """An operation whose range is a point, with what it draws besides (a place)."""
    # Some operations work in place, and the photographs are needed for the next change.
    return lambda images, uniforms: operation.apply(images.clone(), uniforms[:, : operation.draws])


def _ends(operation: Operation) -> Apply:
    """An operation at one end of its ranges or the other, so that its magnitude is the same for all."""
    return lambda images, uniforms: _of(operation)(images, np.where(uniforms < 0.5, 0.0, 1.0))


def _jitter(name: str, strengths: Sequence[float]) -> tuple[Change, ...]:
    def make(strength: float) -> Apply:
        nothing: dict[str, Any] = dict.fromkeys(FACTORS, 0.0)
        alone = ColorJitter(**(nothing | {name: strength}))

        def apply(images: Tensor, uniforms: np.ndarray) -> Tensor:
            ends = np.where(uniforms < 0.5, 0.0, 1.0)
            ends[:, 4] = 0.0  # the order; the other three steps change nothing
            return _of(alone)(images, ends)

        return apply

    return _each(name, strengths, *(("turns, ±", "{:g}") if name == "hue" else ("factor, ±", "{:.0%}")), make)


def _posterize(bits: float) -> Apply:
    return _of(Posterize(bits=(int(bits), int(bits))))


def _rotation(degrees: float) -> Apply:
    """As views are rotated: black where the photograph does not reach, which moves embeddings by itself."""
    return _ends(Affine(degrees=degrees, translate=0.0))


def _translation(share: float) -> Apply:
    return _ends(Affine(degrees=0.0, translate=share))


def _erasing(area: float) -> Apply:
    return _of(Erasing(scale=(area, area), ratio=(0.8, 1.25)))


def _solarize(level: float) -> Apply:
    return _of(Solarize(thresholds=(level / 255, level / 255)))


def _blur(share: float) -> Apply:
    """Gaussian, deviation as a share of the side: the same for backbones of different input sizes."""

    def apply(images: Tensor, uniforms: np.ndarray) -> Tensor:
        sigma = max(0.01, share * images.shape[-1])
        # Three deviations to each side, as far as a mirrored edge reaches.
        half = min(max(1, math.ceil(3 * sigma)), images.shape[-1] - 1)
        return _of(GaussianBlur(kernel_size=2 * half + 1, sigma=(sigma, sigma)))(images, uniforms)

    return apply


def _crop(area: float) -> Apply:
    """A square that keeps a share of the area, enlarged again."""

    def apply(images: Tensor, uniforms: np.ndarray) -> Tensor:
        n, _, _, side = images.shape
        length = max(1, round(side * math.sqrt(area)))
        corners = np.floor(uniforms[:, :2] * (side - length + 1)).astype(np.int64)
        boxes = torch.from_numpy(np.concatenate([corners, np.full((n, 2), length)], axis=1))
        flip = torch.zeros(n, dtype=torch.bool)
        return crop(_levels(images), torch.arange(n), boxes, flip, size=side)

    return apply


def _resolution(share: float) -> Apply:
    """Shrunk to a share of the side and enlarged again, both antialiased bicubic."""

    def apply(images: Tensor, uniforms: np.ndarray) -> Tensor:
        side = images.shape[-1]
        small = resize(_levels(images), [max(1, round(side * share))] * 2, InterpolationMode.BICUBIC, antialias=True)
        large: Tensor = resize(small, [side, side], InterpolationMode.BICUBIC, antialias=True)
        return large.float() / 255

    return apply


def _jpeg(quality: float) -> Apply:
    """Coded and decoded, on the CPU: the GPU's coder is another one."""

    def apply(images: Tensor, uniforms: np.ndarray) -> Tensor:
        coded = encode_jpeg(list(_levels(images).cpu()), quality=int(quality))
        decoded = torch.stack([decode_jpeg(jpg, mode=ImageReadMode.RGB) for jpg in coded])
        return decoded.to(images.device).float() / 255

    return apply


def _levels(images: Tensor) -> Tensor:
    """[0, 1] -> uint8."""
    return images.mul(255).round_().to(torch.uint8)
