"""A released backbone in timm's names: what the readers of other projects' checkpoints return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from umbel.backbones.folder import ModelCard


@dataclass(frozen=True, kw_only=True)
class ReleasedBackbone:
    """A released backbone in timm's names."""

    card: ModelCard
    """Architecture, arguments and image statistics: `write_timm_folder(folder, weights, card)` makes a timm folder."""
    weights: dict[str, Tensor]
    """The state dict of `timm.create_model(card.architecture, num_classes=0, **card.arguments)`, float32."""
    notes: tuple[str, ...]
    """What was dropped and what was assumed, each with its reason."""
