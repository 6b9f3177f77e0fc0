"""Operations that move pixels or cover them, by Kornia."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import kornia.augmentation as K
import numpy as np
import torch
from torch import Tensor

from umbel.augment.operation import Operation, around, between, check_range, to_tensor

Resample = Literal["nearest", "bilinear"]


@dataclass(frozen=True, kw_only=True)
class Affine(Operation):
    """Rotation about the center and translation by whole pixels."""

    degrees: float | tuple[float, float] = 10.0
    """Angle, clockwise; a number is the range to both sides of 0."""
    translate: float | tuple[float, float] = 0.1
    """Greatest translation to either side, as a share of the side; two numbers: of the width and of the height."""
    resample: Resample = "nearest"
    """How values between pixels are found."""
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros"
    """What stands where the image does not reach: black, its last pixels drawn out, or its mirror image."""
    draws: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("degrees", around(0, self.degrees), -180, 180)
        for share in self.reach:
            if not 0 <= share <= 1:
                raise ValueError(f"translate must be a share of the side, 0 to 1, not {share}")

    @property
    def reach(self) -> tuple[float, float]:
        """Greatest translation to the sides and up or down, as shares of width and height."""
        return self.translate if isinstance(self.translate, tuple) else (self.translate, self.translate)

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        reach = np.array(self.reach)
        # Whole pixels, as torchvision translates.
        shift = np.rint(between(uniforms[:, 1:3], -reach, reach) * [width, height])
        return {"angle": between(uniforms[:, 0], *around(0, self.degrees)), "translations": shift}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        n, _, height, width = images.shape
        zeros = images.new_zeros(n)
        whole = {
            "angle": to_tensor(parameters["angle"], images),
            "translations": to_tensor(parameters["translations"], images),
            "center": images.new_tensor([[(width - 1) / 2, (height - 1) / 2]]).expand(n, 2),
            "scale": images.new_ones(n, 2),
            "shear_x": zeros,
            "shear_y": zeros,
        }
        affine = K.RandomAffine(
            180.0, resample=self.resample, padding_mode=self.padding_mode, align_corners=True, p=1.0
        )
        return _in_range(affine(images, params=whole), self.resample)

    def words(self, parameters: Mapping[str, Any]) -> str:
        across, down = (int(shift) for shift in parameters["translations"])
        return f"affine {parameters['angle']:.1f}° {across},{down} px"


@dataclass(frozen=True, kw_only=True)
class Rotation(Operation):
    """Rotation about the center; black where the image does not reach."""

    degrees: float | tuple[float, float] = 10.0
    """Angle, counter-clockwise; a number is the range to both sides of 0."""
    resample: Resample = "bilinear"
    """How values between pixels are found."""
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("degrees", around(0, self.degrees), -360, 360)

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        return {"degrees": between(uniforms[:, 0], *around(0, self.degrees))}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        rotation = K.RandomRotation(360.0, resample=self.resample, align_corners=True, p=1.0)
        return _in_range(rotation(images, params={"degrees": to_tensor(parameters["degrees"], images)}), self.resample)

    def words(self, parameters: Mapping[str, Any]) -> str:
        return f"rotation {parameters['degrees']:.1f}°"


@dataclass(frozen=True, kw_only=True)
class HorizontalFlip(Operation):
    """Mirrored left to right."""

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        return {}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        result: Tensor = K.RandomHorizontalFlip(p=1.0)(images, params=_shape(images))
        return result

    def words(self, parameters: Mapping[str, Any]) -> str:
        return "mirrored"


@dataclass(frozen=True, kw_only=True)
class VerticalFlip(Operation):
    """Turned upside down by mirroring."""

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        return {}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        result: Tensor = K.RandomVerticalFlip(p=1.0)(images, params=_shape(images))
        return result

    def words(self, parameters: Mapping[str, Any]) -> str:
        return "mirrored top to bottom"


@dataclass(frozen=True, kw_only=True)
class Erasing(Operation):
    """Cover a rectangle by one value."""

    scale: tuple[float, float] = (0.02, 0.33)
    """Share of the image that is covered."""
    ratio: tuple[float, float] = (0.3, 3.3)
    """Height / width of the rectangle, log-uniform."""
    value: float = 0.0
    """What covers it, in [0, 1]."""
    draws: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("scale", self.scale, 0, 1)
        check_range("ratio", self.ratio, 0.01)
        check_range("value", (self.value, self.value), 0, 1)

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        area = between(uniforms[:, 0], *self.scale) * height * width
        ratio = np.exp(between(uniforms[:, 1], *np.log(self.ratio)))
        heights = np.rint(np.sqrt(area * ratio)).clip(1, height)
        widths = np.rint(np.sqrt(area / ratio)).clip(1, width)
        return {
            "xs": np.floor(uniforms[:, 2] * (width - widths + 1)),
            "ys": np.floor(uniforms[:, 3] * (height - heights + 1)),
            "widths": widths,
            "heights": heights,
        }

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        whole = {name: to_tensor(values, images) for name, values in parameters.items()}
        whole["values"] = images.new_full((len(images),), self.value)
        result: Tensor = K.RandomErasing(p=1.0)(images, params=whole)
        return result

    def words(self, parameters: Mapping[str, Any]) -> str:
        left, top, width, height = (int(parameters[name]) for name in ("xs", "ys", "widths", "heights"))
        return f"erasing {width}x{height} at {left},{top}"


def _in_range(images: Tensor, resample: Resample) -> Tensor:
    """Bilinear weights sum to 1 but for their rounding, which may carry a white pixel beyond 1."""
    return images.clamp_(0, 1) if resample == "bilinear" else images


def _shape(images: Tensor) -> dict[str, Tensor]:
    """What Kornia's flips ask for beside the images."""
    return {"forward_input_shape": torch.tensor(images.shape)}
