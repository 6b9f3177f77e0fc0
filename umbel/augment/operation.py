"""What every augmentation operation is: a probability for each kind of view, and parameters drawn by us.

Kornia's samplers use the global generator, so that a view would depend on everything drawn before it: Kornia gets its
parameters from uniform numbers of the view's own stream instead.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ByView:
    """A probability for each kind of view."""

    first_global: float = 0.0
    """Of view 0."""
    second_global: float = 0.0
    """Of view 1."""
    local: float = 0.0
    """Of every later view."""


@dataclass(frozen=True, kw_only=True)
class Operation(abc.ABC):
    """An operation on some images of a batch."""

    p: float | ByView = 1.0
    """Probability of being applied to an image."""
    draws: ClassVar[int] = 0
    """Uniform numbers that an image's parameters take, the one that decides on applying apart."""

    def __post_init__(self) -> None:
        for value in self._by_view():
            if not 0 <= value <= 1:
                raise ValueError(f"p must be a probability, not {value}")

    @abc.abstractmethod
    def parameters(self, uniforms: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
        """(n, draws) in [0, 1) -> the parameters of n images, a row each."""

    @abc.abstractmethod
    def change(self, images: Tensor, parameters: dict[str, np.ndarray]) -> Tensor:
        """(n, 3, H, W) in [0, 1] -> the same shape and range."""

    @abc.abstractmethod
    def words(self, parameters: Mapping[str, Any]) -> str:
        """One image's parameters in a few words, for people."""

    @property
    def least_side(self) -> int:
        """The smallest images, in pixels, that the operation can work on."""
        return 1

    def chance(self, view: np.ndarray) -> np.ndarray:
        """(n,) view numbers -> (n,) probabilities of being applied."""
        by_view = np.array(self._by_view())
        chance: np.ndarray = by_view[np.minimum(view, len(by_view) - 1)]
        return chance

    def apply(self, images: Tensor, uniforms: np.ndarray) -> Tensor:
        """(n, 3, H, W) in [0, 1] and (n, draws) in [0, 1) -> (n, 3, H, W) in [0, 1]."""
        return self.change(images, self.parameters(uniforms, images.shape[2], images.shape[3]))

    def change_in_place(
        self, images: Tensor, rows: np.ndarray, parameters: dict[str, np.ndarray], *, compiled: bool = False
    ) -> None:
        """Change k images of a batch in place; an operation may have a faster way than `change`, equal within 5e-6.

        Args:
            images: (n, 3, H, W) in [0, 1].
            rows: (k,) which of them.
            parameters: of those, a row each.
            compiled: on a GPU, compile what a faster way needs compiled.
        """
        index = torch.from_numpy(rows).to(images.device)
        images[index] = self.change(images[index], parameters)

    def _by_view(self) -> tuple[float, float, float]:
        """First global, second global, local."""
        if isinstance(self.p, ByView):
            return self.p.first_global, self.p.second_global, self.p.local
        return self.p, self.p, self.p


def between(uniforms: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """Map uniform numbers from [0, 1) to [low, high)."""
    return low + (high - low) * uniforms


def around(center: float, value: float | tuple[float, float]) -> tuple[float, float]:
    """A range: a number reaches so far to both sides of `center`, two numbers are the range itself."""
    return value if isinstance(value, tuple) else (center - value, center + value)


def check_range(name: str, value: tuple[float, float], low: float, high: float = math.inf) -> None:
    """Raise ValueError, with the field's name, for a range that is turned round or reaches beyond its bounds."""
    if not low <= value[0] <= value[1] <= high or math.isinf(value[1]):
        bounds = f"of at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be a range {bounds}, not {value[0]:g} to {value[1]:g}")


def to_tensor(values: np.ndarray, like: Tensor) -> Tensor:
    """Parameters on the device and in the precision of the images."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, like.dtype)
