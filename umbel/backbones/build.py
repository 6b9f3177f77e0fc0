"""Building a ViT as SimDINOv2 wants it: registers, LayerScale, positions for the global views' grid, first weights.

A ConvNeXt is timm's own, with timm's first weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from umbel.backbones.family import Family, family_of, family_of_name, refusal, stride_of
from umbel.config import nearest
from umbel.run import UserError


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """What of an architecture's own may be changed; fields left null are the model's own.

    All fields are a ViT's: a ConvNeXt refuses the first four and leaves the others aside.
    """

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


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(ShapeConfig):
    """A timm vision transformer or ConvNeXt, and what of its shape is changed."""

    name: str = "vit_base_patch16_224"
    """timm's name of the architecture."""


def family_to_build(name: str) -> Family:
    """The family of a name of timm's.

    Raises:
        UserError: no such name, or a network that cannot be trained.
    """
    if not timm.is_model(name):
        hint = nearest(name, timm.list_models())
        raise UserError(f"backbone.name '{name}' is not a timm model{hint or '.'}")
    family = family_of_name(name)
    if family is None:
        model: Any = timm.create_model(name, num_classes=0)
        family = family_of(model)
        if family is None:
            raise UserError(str(refusal(model, name)))
    return family


def model_arguments(config: BackboneConfig, image_size: int) -> dict[str, Any]:
    """The keyword arguments that timm builds the model with; they go into config.json beside the weights.

    Raises:
        UserError: as `build`.
    """
    family = family_to_build(config.name)
    given = {"embed_dim": config.width, "depth": config.depth, "num_heads": config.heads, "patch_size": config.patch}
    given = {name: value for name, value in given.items() if value is not None}
    if family == "convnext":
        fields = [
            f"backbone.{name}" for name in ("width", "depth", "heads", "patch") if getattr(config, name) is not None
        ]
        if fields:
            raise UserError(f"{config.name} is a ConvNeXt of fixed shape: leave {', '.join(fields)} at null.")
        return {}
    return given | {
        "img_size": image_size,
        "num_reg_tokens" if family == "eva" else "reg_tokens": config.registers,
        "init_values": config.layer_scale,
        "class_token": True,
        "global_pool": "token",
        "no_embed_class": True,
        "dynamic_img_size": True,
    }


def build(config: BackboneConfig, image_size: int, *, setting: str = "views.global_size") -> Any:
    """A ViT or ConvNeXt with fresh weights from torch's global generator; `setting` is what the size is called.

    A ViT starts as specified: linear weights truncated normal 0.02, biases 0, positions 0.02, class and register
    tokens 1e-6. The class token's own position embedding, which timm's `no_embed_class` leaves out, is folded into
    the class token. A ConvNeXt starts as timm initializes it.

    Raises:
        UserError: a network that cannot be trained, settings that do not fit it, or an image size that its stride does
            not divide.
    """
    arguments = model_arguments(config, image_size)
    try:
        model: Any = timm.create_model(config.name, num_classes=0, **arguments)
    except TypeError as error:
        raise UserError(f"backbone.name '{config.name}' does not take the settings of a ViT ({error}).") from error
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"backbone '{config.name}' cannot be built with these settings: {reason}.") from error
    check_side(model, setting, image_size)
    if family_of(model) != "convnext":
        first_weights(model)
    return model


def check_size(model: Any, view: str, side: int) -> None:
    """Refuse views (global or local) of a side that the network cannot divide; raises as `check_side`."""
    check_side(model, f"views.{view}_size", side)


def check_side(model: Any, setting: str, side: int) -> None:
    """Refuse images whose side the patch of a ViT or the stride of a ConvNeXt does not divide.

    Raises:
        UserError: it does not.
    """
    stride = stride_of(model)
    if side % stride:
        what = "total stride" if family_of(model) == "convnext" else "patch"
        near = " or ".join(str(n * stride) for n in (side // stride, side // stride + 1) if n)
        raise UserError(f"{setting} {side} is not a multiple of the backbone's {what} of {stride} px: choose {near}.")


@torch.no_grad()
def first_weights(model: Any) -> None:
    """The specification's first weights, where timm's differ from them."""
    if family_of(model) == "eva":
        # timm draws tokens as wide as positions, and divides the last weights of a block by its depth.
        for token in (model.cls_token, model.reg_token):
            if token is not None:
                nn.init.normal_(token, std=1e-6)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    model.cls_token += nn.init.trunc_normal_(torch.empty_like(model.cls_token), std=0.02)
