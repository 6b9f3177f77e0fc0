"""Color jitter by Kornia's steps, in an order drawn for each image; what the factors mean is torchvision's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import kornia.enhance
import numpy as np
import torch
from torch import Tensor

from umbel.augment.fast_jitter import compiled_jitter_batch, jitter_image
from umbel.augment.operation import ByView, Operation, around, between, check_range, to_tensor

ORDERS = np.array(list(itertools.permutations(range(4))))
FACTORS = ("brightness", "contrast", "saturation", "hue")
STEPS = (
    kornia.enhance.adjust_brightness_accumulative,
    kornia.enhance.adjust_contrast_with_mean_subtraction,
    kornia.enhance.adjust_saturation_with_gray_subtraction,
    kornia.enhance.adjust_hue,
)


@dataclass(frozen=True, kw_only=True)
class ColorJitter(Operation):
    """Brightness, contrast, saturation and hue, one after the other.

    A number s of the first three is the range of factors 1 - s to 1 + s, of the hue -s to s.
    """

    p: float | ByView = 0.8
    brightness: float | tuple[float, float] = 0.4
    """Factor of all values."""
    contrast: float | tuple[float, float] = 0.4
    """Factor of the distance from the mean gray."""
    saturation: float | tuple[float, float] = 0.2
    """Factor of the distance from the pixel's own gray."""
    hue: float | tuple[float, float] = 0.1
    """Turn of the hue, in whole turns."""
    draws: ClassVar[int] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, given in zip(FACTORS, self.ranges, strict=True):
            low, high = (-0.5, 0.5) if name == "hue" else (0.0, math.inf)
            check_range(name, given, low, high)

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """Of brightness, contrast, saturation and hue."""
        return (
            around(1, self.brightness),
            around(1, self.contrast),
            around(1, self.saturation),
            around(0, self.hue),
        )

    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        found = {name: between(uniforms[:, i], *self.ranges[i]) for i, name in enumerate(FACTORS)}
        return found | {"order": ORDERS[(uniforms[:, 4] * len(ORDERS)).astype(np.int64)]}

    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        factors = [parameters[name] for name in FACTORS[:3]] + [parameters["hue"] * 2 * math.pi]
        # Kornia's ColorJitter has one order a call: its four steps are called on the images whose turn it is.
        for turn in range(4):
            for number, step in enumerate(STEPS):
                rows = np.flatnonzero(parameters["order"][:, turn] == number)
                if len(rows):
                    index = torch.from_numpy(rows).to(images.device)
                    images[index] = step(images[index], to_tensor(factors[number][rows], images))
        return images

    def change_in_place(
        self, images: Tensor, rows: np.ndarray, parameters: dict[str, np.ndarray], *, compiled: bool = False
    ) -> None:
        factors, order = np.stack([parameters[name] for name in FACTORS], 1), parameters["order"]
        if images.device.type == "cpu":
            for row, values, steps in zip(rows.tolist(), factors.tolist(), order.tolist(), strict=True):
                jitter_image(images[row], values, steps)
        elif compiled:
            # All images, so that shapes stay: those that drew no jitter have no steps.
            whole = np.zeros((len(images), 8))
            whole[:, 4:], whole[rows] = -1, np.concatenate([factors, order], 1)
            table = to_tensor(whole, images)
            images.copy_(compiled_jitter_batch()(images, table[:, :4], table[:, 4:].long()))
        else:
            super().change_in_place(images, rows, parameters)

    def words(self, parameters: Mapping[str, Any]) -> str:
        factors = " ".join(f"{name[0]}{parameters[name]:.2f}" for name in FACTORS[:3])
        # Rounded first, and 0 added: no "-0.00".
        hue, order = round(float(parameters["hue"]), 2) + 0.0, "".join(FACTORS[n][0] for n in parameters["order"])
        return f"jitter {factors} h{hue:+.2f} order {order}"
