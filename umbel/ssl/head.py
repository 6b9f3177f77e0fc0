"""The projection head: three linear layers, then a unit vector; shared by class token and patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from umbel.coding_rate import at_least_float32


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Widths of the projection head."""

    hidden: int = 2048
    """Width of the two hidden layers."""
    width: int = 256
    """D, width of the output: the coding rate's dimension."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.width < 2:
            raise ValueError(
                f"head.hidden must be at least 1 and head.width at least 2, not {self.hidden}, {self.width}"
            )


class Head(nn.Module):
    """Backbone tokens (n, C) to unit vectors (n, D)."""

    def __init__(self, dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.width),
        )
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:  # (n, C) -> (n, D)
        # Normalized in float32: bf16's 8 bits would leave lengths up to 0.4 % off.
        return F.normalize(at_least_float32(self.mlp(x)), dim=-1)
