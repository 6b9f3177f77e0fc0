"""Operations on colors and sharpness, pixel by pixel or in a small neighborhood, by Kornia."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import kornia.augmentation as K
import numpy as np
import torch
from torch import Tensor

from umbel.augment.operation import Operation, between, check_range, to_tensor

HALF_A_LEVEL = 0.5 / 255


def whole_levels(images: Tensor) -> Tensor:
    """Rounded to whole levels of 255, as photographs have them; the jitter leaves fractions."""
    return images.mul(255).round_().div_(255)


@dataclass(frozen=True, kw_only=True)
class Posterize(Operation):
    """Keep the highest bits of each channel."""

    bits: tuple[int, int] = (3, 5)
    """Least and greatest number of bits; every number from one to the other is drawn as often."""
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("bits", self.bits, 1, 8)

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        # Kornia rounds a uniform number, which gives the two ends half the share of the others.
        low, high = self.bits
        return {"bits_factor": low + (uniforms[:, 0] * (high - low + 1)).astype(np.int64)}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        # On whole levels: fractions would be cut off twice.
        bits = torch.from_numpy(parameters["bits_factor"])
        result: Tensor = K.RandomPosterize(p=1.0)(whole_levels(images), params={"bits_factor": bits})
        return result

    def change_in_place(
        self, images: Tensor, rows: np.ndarray, parameters: dict[str, np.ndarray], *, compiled: bool = False
    ) -> None:
        if images.device.type != "cpu":
            super().change_in_place(images, rows, parameters)
            return
        for row, bits in zip(rows.tolist(), parameters["bits_factor"].tolist(), strict=True):
            # Half a level is added for the rounding to whole levels; what is cut off next is never less than that.
            step = 2 ** (8 - bits)
            images[row].mul_(255 / step).add_(0.5 / step).floor_().mul_(step / 255)

    def words(self, parameters: Mapping[str, Any]) -> str:
        return f"posterize {parameters['bits_factor']} bits"


@dataclass(frozen=True, kw_only=True)
class Grayscale(Operation):
    """The same gray in all three channels."""

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        return {}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        result: Tensor = K.RandomGrayscale(p=1.0)(images, params={})
        return result

    def words(self, parameters: Mapping[str, Any]) -> str:
        return "grayscale"


@dataclass(frozen=True, kw_only=True)
class GaussianBlur(Operation):
    """Blur by a Gaussian; the image is mirrored at its edges."""

    kernel_size: int = 9
    """Side of the kernel in pixels, odd."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Deviation in pixels."""
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("sigma", self.sigma, 0.01)
        if self.kernel_size < 3 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 3, not {self.kernel_size}")

    @property
    def least_side(self) -> int:
        return self.kernel_size // 2 + 1

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        return {"sigma": between(uniforms[:, 0], *self.sigma)}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        blur = K.RandomGaussianBlur(self.kernel_size, self.sigma, p=1.0)
        result: Tensor = blur(images, params={"sigma": to_tensor(parameters["sigma"], images)})
        return result.clamp_(0, 1)

    def words(self, parameters: Mapping[str, Any]) -> str:
        return f"blur {parameters['sigma']:.2f} px"


@dataclass(frozen=True, kw_only=True)
class Solarize(Operation):
    """Invert what is at least as bright as a threshold."""

    thresholds: tuple[float, float] = (128 / 255, 128 / 255)
    """Least inverted value, in [0, 1]."""
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("thresholds", self.thresholds, 0, 1)

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        return {"thresholds": between(uniforms[:, 0], *self.thresholds)}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        # Half a level lower, so that a value of the threshold's own level is inverted however its division was rounded.
        thresholds = to_tensor(parameters["thresholds"] - HALF_A_LEVEL, images)
        result: Tensor = K.RandomSolarize(p=1.0)(images, params={"thresholds": thresholds})
        return result

    def words(self, parameters: Mapping[str, Any]) -> str:
        return f"solarize from {parameters['thresholds'] * 255:.0f}"


@dataclass(frozen=True, kw_only=True)
class Sharpness(Operation):
    """Sharpen or soften."""

    sharpness: float | tuple[float, float] = 0.5
    """Factor: 0 softens, 1 changes nothing, more sharpens; a number s is the range 0 to s."""
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("sharpness", self.range, 0)

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest factor."""
        return self.sharpness if isinstance(self.sharpness, tuple) else (0.0, self.sharpness)

    @property
    def least_side(self) -> int:
        return 3

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        return {"sharpness": between(uniforms[:, 0], *self.range)}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        factors = to_tensor(parameters["sharpness"], images)
        result: Tensor = K.RandomSharpness(p=1.0)(images, params={"sharpness": factors})
        return result

    def words(self, parameters: Mapping[str, Any]) -> str:
        return f"sharpness {parameters['sharpness']:.2f}"


@dataclass(frozen=True, kw_only=True)
class Equalize(Operation):
    """Spread each channel's values evenly."""

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        return {}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        # On whole levels, which Kornia would otherwise cut fractions off to reach.
        result: Tensor = K.RandomEqualize(p=1.0)(whole_levels(images), params={})
        return result

    def words(self, parameters: Mapping[str, Any]) -> str:
        return "equalize"
