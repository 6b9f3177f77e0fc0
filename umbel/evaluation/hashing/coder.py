"""HashCoder: the small network that turns features into logits of bits, batch-normalized so that bits are balanced.

Source: Image Hashing via Cross-View Code Alignment in the Age of Foundation Models (arXiv 2510.27584).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

Size = Literal["small", "large"]
ROWS_AT_ONCE = 8192


class HashCoder(nn.Module):
    """Features (B, C) -> logits (B, K); a bit is set where its logit is positive."""

    method: ClassVar[str] = "crovca"

    def __init__(self, width: int, bits: int, *, size: Size = "small", affine: bool = False) -> None:
        """Fresh weights from torch's global generator.

        Args:
            width: C, of the features.
            bits: K.
            size: small (one hidden layer of C) or large (two of max(2 C, 2048)).
            affine: give the batch normalization a scale and shift, as the original has; the shift can unbalance bits.
        """
        super().__init__()
        if width < 1 or bits < 1:
            raise ValueError(f"width and bits must be at least 1, not {width} and {bits}")
        self.width, self.bits, self.size, self.affine = width, bits, size, affine
        self.layers = nn.Sequential(*_layers(width, bits, size), nn.BatchNorm1d(bits, affine=affine))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layers(features)
        return logits

    @torch.no_grad()
    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, C) -> (N, K) float32 by the running statistics, whichever mode the module is in."""
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        parts = [
            self(torch.from_numpy(np.ascontiguousarray(features[row : row + ROWS_AT_ONCE], np.float32)).to(device))
            for row in range(0, len(features), ROWS_AT_ONCE)
        ]
        self.train(was_training)
        return torch.cat(parts).cpu().numpy() if parts else np.empty((0, self.bits), np.float32)

    def encode(self, features: np.ndarray) -> np.ndarray:
        """(N, C) -> (N, K) bool."""
        bits: np.ndarray = self.logits(features) > 0
        return bits

    def settings(self) -> dict[str, Any]:
        """What `from_tensors` needs beside the tensors."""
        return {"width": self.width, "bits": self.bits, "size": self.size, "affine": self.affine}

    def tensors(self) -> dict[str, np.ndarray]:
        """Weights and running statistics."""
        return {name: value.detach().cpu().numpy() for name, value in self.state_dict().items()}

    @classmethod
    def from_tensors(cls, settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> HashCoder:
        """The coder that `settings` and `tensors` tell of, in eval mode.

        Raises:
            ValueError, TypeError: settings or tensors that do not fit together.
        """
        with torch.random.fork_rng(devices=[]):
            coder = cls(**settings)
        for name, value in coder.state_dict().items():
            if name in tensors and torch.from_numpy(tensors[name]).dtype != value.dtype:
                raise ValueError(f"{name} is of type {tensors[name].dtype}")
        try:
            coder.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from error
        return coder.eval()


def _layers(width: int, bits: int, size: Size) -> list[nn.Module]:
    if size == "small":
        return [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, bits)]
    if size == "large":
        hidden = max(2 * width, 2048)
        first, second = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
        return [first, nn.GELU(), second, nn.GELU(), nn.Linear(hidden, bits)]
    raise ValueError(f"size must be small or large, not {size!r}")
