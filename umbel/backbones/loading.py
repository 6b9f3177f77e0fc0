"""Loading a backbone by any name: a run, a folder, a file, a released checkpoint, timm's or open_clip's models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
from safetensors import SafetensorError
from torch import nn

from umbel.backbones import open_clip_tower
from umbel.backbones.authors import read_released
from umbel.backbones.family import pooling_of
from umbel.backbones.folder import ModelCard
from umbel.backbones.text_tower import CLAP
from umbel.config import nearest
from umbel.run import UserError, say


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A backbone, in eval mode, ready for features."""

    model: nn.Module
    """(B, 3, H, W) -> (B, dim); `model.forward_features` gives the tokens."""
    transform: Callable[[Any], torch.Tensor]
    """A PIL image -> (3, H, W), as the backbone was evaluated."""
    dim: int
    """C, width of a feature."""
    patch: int | None
    """Side of a patch in pixels; None for a network without patches."""
    source: str
    """What was loaded, in words."""
    card: ModelCard
    """How timm builds it and prepares its images."""


def load(name: str | Path, *, any_size: bool = False) -> Backbone:
    """Load a backbone.

    Args:
        name: a run folder of `umbel pretrain` (its newest checkpoint), a folder with config.json and
            model.safetensors, that model.safetensors itself, a folder of open_clip's, a released checkpoint of
            SimDINOv2 or DINOv2 (what is assumed of it is printed), hf-hub:NAME, open_clip:NAME (the image tower of a
            model of open_clip, such as open_clip:hf-hub:imageomics/bioclip), or a name of timm's (pretrained weights).
        any_size: let a ViT take images of any size, by interpolating its positions; other networks are as they are.

    Raises:
        UserError: nothing of that name, or files that do not fit together.
    """
    text = str(name)
    path = Path(text)
    if text.startswith(open_clip_tower.PREFIX):
        return _backbone(open_clip_tower.load_tower(text.removeprefix(open_clip_tower.PREFIX)), text)
    if text and path.is_file() and path.suffix != ".safetensors":
        return _released(path)
    if (path / open_clip_tower.CONFIG).is_file():
        local = f"local-dir:{path}"
        return _backbone(open_clip_tower.load_tower(local), open_clip_tower.PREFIX + local)
    if text and path.exists():
        folder = find_folder(path)
        return _create(f"local-dir:{folder}", f"folder {folder}", any_size)
    if text.startswith(CLAP):
        raise UserError(
            f"{text} hears sounds and sees no photographs: `umbel embed {text}` takes a folder of .wav files."
        )
    architecture = text.split(".")[0]
    if not text.startswith("hf-hub:") and not timm.is_model(architecture):
        close = nearest(architecture, timm.list_models())
        raise UserError(
            f"backbone '{text}' is neither a file or folder here, nor hf-hub:NAME, nor open_clip:NAME, nor a name of "
            f"timm's{close or '.'}"
        )
    return _create(text, text, any_size)


def find_folder(path: Path) -> Path:
    """The timm folder that a path stands for: itself, a file's folder, or a run's newest checkpoint.

    Raises:
        UserError: it stands for none.
    """
    if path.is_file():
        if path.name == "model.safetensors" and (path.parent / "config.json").is_file():
            return path.parent
        raise UserError(f"{path}: a backbone file must be called model.safetensors and have its config.json beside it.")
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        return path
    checkpoints = sorted((path / "checkpoints").glob("step-*/backbone/config.json"))
    if checkpoints:
        return checkpoints[-1].parent
    if (path / "config.yaml").is_file():
        raise UserError(f"run {path} has no checkpoint yet: let it train on.")
    raise UserError(f"{path} is neither a run nor a folder with config.json and model.safetensors.")


def _released(path: Path) -> Backbone:
    found = read_released(path)
    for note in found.notes:
        say(f"{path}: {note}.")
    settings = found.card.config()["pretrained_cfg"]
    model = timm.create_model(found.card.architecture, num_classes=0, pretrained_cfg=settings, **found.card.arguments)
    model.load_state_dict(found.weights)
    return _backbone(model, f"file {path}")


def _create(name: str, source: str, any_size: bool) -> Backbone:
    # A ViT of ours has dynamic_img_size in its config.json; other models may not know the argument.
    arguments = {"dynamic_img_size": True} if any_size else {}
    try:
        try:
            model = timm.create_model(name, pretrained=True, num_classes=0, **arguments)
        except TypeError as error:
            if "dynamic_img_size" not in str(error):
                raise
            model = timm.create_model(name, pretrained=True, num_classes=0)
    except (RuntimeError, KeyError, ValueError, TypeError, AssertionError, SafetensorError) as error:
        # timm, torch and safetensors each have their own way to say that files do not fit together.
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise UserError(f"backbone {source} cannot be loaded: {reason}.") from error
    except OSError as error:
        other = f": a model of open_clip's is called open_clip:{source}" if source.startswith("hf-hub:") else ""
        raise UserError(
            f"the weights of backbone {source} cannot be had here ({type(error).__name__}){other}."
        ) from error
    return _backbone(model, source)


def _backbone(model: Any, source: str) -> Backbone:
    model.eval()
    data = timm.data.resolve_model_data_config(model)
    patch_embed = getattr(model, "patch_embed", None)
    patch = getattr(patch_embed, "patch_size", None)
    card = ModelCard(
        architecture=model.pretrained_cfg["architecture"],
        arguments={k: v for k, v in getattr(model, "_model_args", {}).items() if k != "num_classes"},
        image_size=int(data["input_size"][-1]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        num_features=int(model.num_features),
        global_pool=pooling_of(model),
        first_conv=model.pretrained_cfg.get("first_conv") or "patch_embed.proj",
        classifier=model.pretrained_cfg.get("classifier") or "head",
    )
    return Backbone(
        model=model,
        transform=timm.data.create_transform(**data, is_training=False),
        dim=int(model.num_features),
        patch=None if patch is None else int(patch[0] if isinstance(patch, tuple) else patch),
        source=source,
        card=card,
    )
