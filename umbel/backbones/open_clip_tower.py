"""Image towers of open_clip's models (BioCLIP and its kin), with the surface that timm's networks have.

`open_clip:hf-hub:imageomics/bioclip`, `open_clip:local-dir:FOLDER`, `open_clip:ViT-B-16/TAG` (a name and what it was
trained on, as open_clip lists them). Needs the extra `text`.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from umbel.run import UserError

PREFIX = "open_clip:"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
CROP_MODES = {"shortest": "center", "squash": "squash"}


class OpenClipTower(nn.Module):
    """An image tower: (B, 3, H, W) -> (B, C), projected to where open_clip compares images with text."""

    global_pool = "open_clip"

    def __init__(self, visual: Any, name: str) -> None:
        super().__init__()
        self.visual = visual
        settings = visual.preprocess_cfg
        if settings["resize_mode"] not in CROP_MODES:
            raise UserError(f"{PREFIX}{name} resizes images by '{settings['resize_mode']}', which Umbel does not.")
        size = settings["size"] if isinstance(settings["size"], int) else settings["size"][0]
        # As timm's networks have it: Umbel makes the transform of it.
        self.pretrained_cfg = {
            "architecture": PREFIX + name,
            "input_size": (3, size, size),
            "interpolation": settings["interpolation"],
            "crop_pct": 1.0,
            "crop_mode": CROP_MODES[settings["resize_mode"]],
            "mean": tuple(settings["mean"]),
            "std": tuple(settings["std"]),
        }
        with torch.inference_mode():
            self.num_features = int(self.eval()(torch.zeros(1, 3, size, size)).shape[1])

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        """(B, C)."""
        found = self.visual(images)
        pooled: Tensor = found[0] if isinstance(found, tuple) else found
        return pooled


class OpenClipViT(OpenClipTower):
    """A tower whose tokens can be had: the final norm sees them all."""

    num_prefix_tokens = 1

    @property
    def cls_token(self) -> Tensor:
        """The class token that the blocks begin with, (C,)."""
        token: Tensor = self.visual.class_embedding
        return token

    def forward_features(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        """(B, N, C) after the final norm, before the projection: class token, then patches."""
        caught: list[Tensor] = []
        handle = self.visual.ln_post.register_forward_hook(lambda _module, _given, tokens: caught.append(tokens))
        try:
            self.visual(images)
        finally:
            handle.remove()
        return caught[0]


def load_tower(name: str, *, weights: bool = True) -> OpenClipTower:
    """Load an image tower, or build it with fresh weights.

    Args:
        name: without the prefix.

    Raises:
        UserError: open_clip is not installed, knows no such model, or cannot get its weights.
    """
    visual = load_model(name, weights=weights).visual
    plain = type(visual).__name__ == "VisionTransformer" and visual.attn_pool is None
    has_tokens = plain and not visual.final_ln_after_pool
    return (OpenClipViT if has_tokens else OpenClipTower)(visual, name)


def load_model(name: str, *, weights: bool = True) -> Any:
    """Both towers, as open_clip has them; see `load_tower`."""
    open_clip = import_open_clip(name)
    architecture, tag = parts_of(name)
    try:
        return open_clip.create_model(
            architecture,
            pretrained=(tag or None) if weights else None,
            load_weights=weights,
            require_pretrained=weights,
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise UserError(f"backbone {PREFIX}{name} cannot be loaded: {reason}.") from error


def parts_of(name: str) -> tuple[str, str]:
    """What open_clip calls the model, and what it was trained on ("" where the first says it)."""
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, ""
    architecture, _, tag = name.partition("/")
    return architecture, tag


def import_open_clip(name: str) -> Any:
    """
    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise UserError(
            f"backbone {PREFIX}{name} needs open_clip, which is not here ({error}): pip install 'umbel[text]'."
        ) from error
