"""The student before its first step: a timm model with fresh weights, timm's own, or those of a backbone."""

from __future__ import annotations

import dataclasses
from typing import Any

import timm

from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD
from umbel.backbones import load
from umbel.backbones.build import BackboneConfig, ShapeConfig, build, check_side, model_arguments
from umbel.backbones.family import family_of, family_of_name, pooling_of
from umbel.backbones.folder import ModelCard
from umbel.config import nearest
from umbel.run import UserError, say
from umbel.ssl.distillation.config import PRETRAINED, DistillConfig

SIZE = "views.size"


def first_student(config: DistillConfig) -> tuple[Any, ModelCard]:
    """The student and how timm builds it; a pretrained one keeps its own mean and deviation.

    Raises:
        UserError: no such model, or settings that do not fit it.
    """
    name, size = config.student, config.views.size
    if not name:
        raise UserError("say which model to train: --student NAME, such as convnext_atto or vit_tiny_patch16_224.")
    if not timm.is_model(name.split(".")[0]):
        raise UserError(f"--student '{name}' is not a timm model{nearest(name, timm.list_models()) or '.'}")
    backbone: Any
    if config.init is None:
        backbone, arguments = fresh(name, config.backbone, size)
        mean, std = INAT_PLANTAE_MEAN, INAT_PLANTAE_STD
    else:
        loaded = load(name if config.init == PRETRAINED else config.init, any_size=True)
        if loaded.card.architecture != name.split(".")[0]:
            raise UserError(f"--init {config.init} is a {loaded.card.architecture} and not a {name}, the --student.")
        if config.backbone != ShapeConfig():
            raise UserError(f"--init {config.init} has a shape of its own: leave the --backbone settings out.")
        backbone = loaded.model.train()
        arguments = loaded.card.arguments
        mean, std = loaded.card.mean, loaded.card.std  # type: ignore[assignment]
        say(f"starting from {loaded.source}; its mean {mean} and deviation {std} are kept.")
        if hasattr(backbone, "patch_embed") and hasattr(backbone.patch_embed, "img_size"):
            # The grid of its positions: timm knows it by the name, and not by a folder of ours.
            arguments = {"img_size": list(backbone.patch_embed.img_size)} | arguments
    if family_of(backbone) is not None:
        check_side(backbone, SIZE, size)
    card = ModelCard(
        architecture=name.split(".")[0],
        arguments=arguments,
        image_size=size,
        mean=mean,
        std=std,
        num_features=int(backbone.num_features),
        global_pool=pooling_of(backbone),
        first_conv=backbone.pretrained_cfg.get("first_conv") or "patch_embed.proj",
        classifier=backbone.pretrained_cfg.get("classifier") or "head",
    )
    return backbone, card


def fresh(name: str, shape: ShapeConfig, size: int) -> tuple[Any, dict[str, Any]]:
    """A network with fresh weights from torch's global generator, and timm's arguments for it.

    ViTs and ConvNeXts are built as for pretraining; other models are timm's own, and their shape is fixed.

    Raises:
        UserError: as `umbel.backbones.build.build`, or a shape for another model.
    """
    name = name.split(".")[0]
    if family_of_name(name) is not None:
        config = BackboneConfig(name=name, **dataclasses.asdict(shape))
        return build(config, size, setting=SIZE), model_arguments(config, size)
    if shape != ShapeConfig():
        raise UserError(f"{name} is neither a ViT nor a ConvNeXt and has a fixed shape: leave --backbone out.")
    try:
        return timm.create_model(name, num_classes=0), {}
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UserError(f"--student {name} cannot be built: {' '.join(str(error).split())[:200]}.") from error
