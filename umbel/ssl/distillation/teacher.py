"""The frozen teacher of a distillation: it sees the student's view at its own size, normalized as it expects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from umbel.backbones import Backbone
from umbel.backbones.loading import find_folder
from umbel.evaluation.exporting.classifier_head import ClassifierHead, head_of
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


def frozen(backbone: Backbone, head: ClassifierHead | None) -> Teacher:
    """A loaded backbone as a teacher, with its classifier where it has one, at the temperature that calibrated it.

    Labels that were smoothed or mixed leave a classifier less sure than it may be: softened once more it would say
    next to nothing.
    """
    classifier = None if head is None else linear(head, head.temperature)
    card = backbone.card
    return Teacher(backbone.model, size=card.image_size, mean=card.mean, std=card.std, classifier=classifier)


def head_beside(name: str) -> ClassifierHead | None:
    """The classifier of a run; None where a backbone has none.

    Raises:
        UserError: it is damaged.
    """
    return head_of(find_folder(Path(name))) if name and Path(name).is_dir() else None


@torch.no_grad()
def linear(head: ClassifierHead, temperature: float = 1.0) -> nn.Linear:
    """A stored classifier as a layer; its logits are divided by the temperature."""
    layer = nn.Linear(head.weight.shape[1], head.weight.shape[0])
    layer.weight.copy_(torch.from_numpy(head.weight) / temperature)
    layer.bias.copy_(torch.from_numpy(head.bias) / temperature)
    return layer
