"""Which of timm's networks Umbel trains: vision transformers, their rotary kin (Eva: DINOv3, EVA-02) and ConvNeXts."""

from __future__ import annotations

from typing import Any, Literal

from timm.models import is_model_in_modules
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

Family = Literal["vit", "eva", "convnext"]
CLASSES: dict[type, Family] = {VisionTransformer: "vit", Eva: "eva", ConvNeXt: "convnext"}
MODULES: dict[str, Family] = {
    "vision_transformer": "vit",
    "deit": "vit",
    "eva": "eva",
    "convnext": "convnext",
}


def family_of(model: nn.Module) -> Family | None:
    """The family of a timm model, by its very class: a subclass may have a forward of its own."""
    return CLASSES.get(type(model))


def family_of_name(name: str) -> Family | None:
    """The family of a name of timm's, without building the model; None also where only building it can tell."""
    return next((family for module, family in MODULES.items() if is_model_in_modules(name, module)), None)


def stride_of(model: Any) -> int:
    """Pixels of a view's side for one token of a ViT or one place of a ConvNeXt's last map."""
    if family_of(model) == "convnext":
        return int(model.feature_info[-1]["reduction"])
    return int(model.patch_embed.patch_size[0])


def pooling_of(model: Any) -> str:
    """How `model(images)` makes one feature of an image, by timm's name: token, avg, ..."""
    for owner in (getattr(model, "head", None), model):
        pool = getattr(owner, "global_pool", None)
        pool = getattr(pool, "pool_type", pool)
        if isinstance(pool, str):
            return pool
    return "token"


def refusal(model: Any, name: str) -> str | None:
    """Why Umbel cannot train a timm model, in one sentence; None where it can."""
    if any(getattr(module, "running_mean", None) is not None for module in model.modules()):
        return (
            f"backbone {name} has batch norm: the teacher averages parameters, not running statistics; choose a "
            "network without it, such as vit_small_patch16_224 or convnext_tiny."
        )
    family = family_of(model)
    if family is None:
        return (
            f"backbone {name} is neither a plain vision transformer nor a ConvNeXt of timm's: choose one, such as "
            "vit_small_patch16_224 or convnext_tiny."
        )
    if family == "convnext":
        return None
    if getattr(model, "cls_token", None) is None:
        return f"backbone {name} has no class token, which the image loss needs: choose a ViT that has one."
    if hasattr(model.patch_embed, "backbone"):
        return f"backbone {name} embeds feature maps of a convolutional network: choose a plain ViT."
    return None
