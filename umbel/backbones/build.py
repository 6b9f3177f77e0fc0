"""Building a ViT as SimDINOv2 wants it: registers, LayerScale, positions for the global views' grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from umbel.config import nearest
from umbel.run import UserError


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A timm vision transformer; fields left null are the model's own."""

    name: str = "vit_base_patch16_224"
    """timm's name of the architecture."""
    width: int | None = None
    """C, width of the tokens."""
    depth: int | None = None
    """Blocks."""
    heads: int | None = None
    """Attention heads."""
    patch: int | None = None
    """Side of a patch in pixels."""
    registers: int = 4
    """Register tokens."""
    layer_scale: float = 0.1
    """Initial value of LayerScale."""

    def __post_init__(self) -> None:
        for field in ("width", "depth", "heads", "patch"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"backbone.{field} must be at least 1, not {value}")
        if self.width is not None and self.heads is not None and self.width % self.heads:
            raise ValueError(f"backbone.width {self.width} must be a multiple of backbone.heads {self.heads}")
        if self.registers < 0 or self.layer_scale < 0:
            raise ValueError("backbone.registers and backbone.layer_scale must not be negative")


def model_arguments(config: BackboneConfig, image_size: int) -> dict[str, Any]:
    """The keyword arguments that timm builds the model with; they go into config.json beside the weights."""
    given = {"embed_dim": config.width, "depth": config.depth, "num_heads": config.heads, "patch_size": config.patch}
    return {name: value for name, value in given.items() if value is not None} | {
        "img_size": image_size,
        "reg_tokens": config.registers,
        "init_values": config.layer_scale,
        "class_token": True,
        "global_pool": "token",
        "no_embed_class": True,
        "dynamic_img_size": True,
    }


def build(config: BackboneConfig, image_size: int) -> Any:
    """A ViT with fresh weights from torch's global generator.

    timm initializes as specified (linear weights truncated normal 0.02, biases 0, positions 0.02, class and register
    tokens 1e-6). The class token's own position embedding, which timm's `no_embed_class` leaves out, is folded into the
    class token.

    Raises:
        UserError: not a timm ViT, or an image size that the patch does not divide.
    """
    if not timm.is_model(config.name):
        hint = nearest(config.name, timm.list_models(module="vision_transformer"))
        raise UserError(f"backbone.name '{config.name}' is not a timm model{hint or '.'}")
    try:
        model: Any = timm.create_model(config.name, num_classes=0, **model_arguments(config, image_size))
    except TypeError as error:
        raise UserError(f"backbone.name '{config.name}' is not a vision transformer of timm's ({error}).") from error
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"backbone '{config.name}' cannot be built with these settings: {reason}.") from error
    patch = model.patch_embed.patch_size[0]
    if image_size % patch:
        raise UserError(f"views.global_size {image_size} is not a multiple of the backbone's patch of {patch} px.")
    with torch.no_grad():
        model.cls_token += nn.init.trunc_normal_(torch.empty_like(model.cls_token), std=0.02)
    return model
