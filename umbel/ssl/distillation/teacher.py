"""The frozen teacher of a distillation: it sees the student's view at its own size, normalized as it expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from umbel.ssl.distillation.features import read_features


class Seen(NamedTuple):
    """What the teacher says of photographs."""

    pooled: Tensor  # (B, D)
    grid: Tensor | None  # (B, h, w, D'), where it was asked for
    logits: Tensor | None  # (B, K), where the teacher has a classifier


class Teacher:
    """A network that never trains. It is no module, so that it is neither saved, averaged nor wrapped.

    Args:
        network: of timm's, or with the same surface.
        size: side of the images that it takes.
        mean, std: by which its images are normalized.
        classifier: (B, D) pooled features -> (B, K) logits, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        classifier: nn.Module | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.classifier = None if classifier is None else classifier.eval().requires_grad_(False)
        self.size = size
        self.mean, self.std = torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)

    def move(self, how: Callable[[Tensor], Tensor]) -> None:
        """Do to the weights what `nn.Module._apply` does to those of a module: to a device, to a precision."""
        module: Any
        for module in filter(None, (self.network, self.classifier)):
            module._apply(how)
        self.mean, self.std = how(self.mean), how(self.std)

    @torch.no_grad()
    def see(self, images: Tensor, *, grid: bool) -> Seen:
        """What it says of the views.

        Args:
            images: (B, 3, S, S) in [0, 1], of any size.
            grid: whether the grid is wanted.
        """
        prepared = (resized(images, self.size) - self.mean) / self.std
        found = read_features(self.network, prepared, grid=grid)
        return Seen(found.pooled, found.grid, None if self.classifier is None else self.classifier(found.pooled))


def resized(images: Tensor, side: int) -> Tensor:  # (B, 3, S, S)
    """Images of another size, by antialiased bicubic interpolation in float32 or higher."""
    if images.shape[-1] == side and images.shape[-2] == side:
        return images
    with torch.autocast(images.device.type, enabled=False):
        exact: Any = images if images.dtype == torch.float64 else images.float()
        return F.interpolate(exact, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
