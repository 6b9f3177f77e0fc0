"""How linear classifiers see features: of length 1, then each number shifted and scaled by the support's statistics."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize


class Standardize:
    """(Q, C) features -> (Q, C) float32, of mean 0 and deviation 1 on the support; what is constant there becomes 0."""

    def __init__(self, support: Tensor) -> None:
        """
        Args:
            support: (N, C).
        """
        unit = normalize(support.float(), dim=1)
        self.mean = unit.mean(0)
        deviation = unit.std(0, correction=0)
        self.scale = (deviation > 1e-7) / deviation.clamp(min=1e-7)

    def __call__(self, features: Tensor) -> Tensor:
        return (normalize(features.float(), dim=1) - self.mean) * self.scale
