"""What the fitting loop trains: a network that makes its loss of images, and labels where there are any."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is known of a batch's images, after mixing."""

    target: Tensor | None  # (B, K) float32, rows that sum to 1; None without labels
    weight: Tensor  # (B,) float32, 1 on average over the photographs; 0: a slot whose photograph could not be read


class Learner(nn.Module):
    """The base of what `umbel.ssl.fit_loop.fit` trains.

    A loss that is the sum over images of weight x own loss, over B, is the same on any number of ranks. A frozen
    teacher must be no submodule (it would be saved, averaged and wrapped): hold it in a list, and move it to the device
    by oneself.
    """

    terms: tuple[str, ...] = ("loss",)
    """Names of what `forward` returns; the first is minimized."""
    backbone: Any
    """The network of timm's that checkpoints have for others to load."""

    @abstractmethod
    def forward(self, images: Tensor, labels: Labels) -> Tensor:
        """(B, 3, H, W) normalized images -> (number of terms,) float32."""

    def write_beside(self, folder: Path, validation: dict[str, Any] | None) -> None:
        """Write into a checkpoint what belongs to the backbone for its use; by default nothing.

        Called with the weights that the checkpoint's backbone has.

        Args:
            folder: the checkpoint's.
            validation: the row of the validation that these weights had; None where there was none.
        """
