"""What every export goes through before it is kept: its features beside the torch model's on the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umbel.backbones import Backbone
from umbel.evaluation.exporting.sample_images import dead_leaves
from umbel.run import UserError

EACH = 4
EXACT, FLOAT = 1e-5, 1e-4
"""Bounds of the largest difference: of torch's own formats, and of ONNX in float32 (which orders sums otherwise)."""


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """The largest difference of any number of the features, by kind of images."""

    random: float
    """On images of independent normal numbers."""
    natural: float
    """On dead leaves, prepared as the backbone prepares photographs."""
    largest_feature: float
    """The largest number of the torch model's features, to hold the differences against."""
    images: int
    bound: float

    @property
    def largest(self) -> float:
        """The largest difference of all."""
        return max(self.random, self.natural)

    def record(self) -> dict[str, Any]:
        """As it is stored in self_test.json."""
        return {"format": 1, "largest_difference": self.largest} | asdict(self)


def sample_batches(backbone: Backbone) -> dict[str, Tensor]:
    """The images, (B, 3, H, W) each: the same for every export of a backbone."""
    size = backbone.card.image_size
    random = torch.randn(EACH, 3, size, size, generator=torch.Generator().manual_seed(0))
    pictures = dead_leaves(EACH, width=4 * size // 3 + 8, height=size + 8)
    return {"random": random, "natural": torch.stack([backbone.transform(picture) for picture in pictures])}


def self_test(
    backbone: Backbone, features: Callable[[NDArray[np.float32]], NDArray[np.float32]], what: str, *, bound: float
) -> SelfTest:
    """Compare an export with the torch model.

    Args:
        features: the export, (B, 3, H, W) -> (B, C).
        what: the export in words, for the error.

    Raises:
        UserError: its features differ by more than the bound, or are not finite.
    """
    differences: dict[str, float] = {}
    largest = 0.0
    for name, images in sample_batches(backbone).items():
        with torch.inference_mode():
            expected = backbone.model(images).numpy()
        found = features(images.numpy())
        differences[name] = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("nan")
        largest = max(largest, float(np.abs(expected).max()))
    told = SelfTest(**differences, largest_feature=largest, images=2 * EACH, bound=bound)
    if not all(difference <= bound for difference in differences.values()):  # a NaN is not
        raise UserError(
            f"the features of {what} differ from the backbone's by {max(differences.values()):.2g}, more than "
            f"{bound:g}: nothing was exported."
        )
    return told


def by_torch(model: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A torch model as a function of arrays."""

    def features(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            made: NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
        return made

    return features
