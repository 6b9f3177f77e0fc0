"""A ViT as a file with DINOv2's names: a flat state dict, blocks not in chunks, that `umbel import` reads back.

Source: arXiv 2304.07193 (the names of its released files).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umbel.backbones.authors_names import SWIGLU
from umbel.backbones.family import family_of
from umbel.run import UserError


def dinov2_state(model: Any, *, mask_token: Tensor | None = None, source: str = "the backbone") -> dict[str, Tensor]:
    """A ViT's tensors, float32, by DINOv2's names.

    With timm's `no_embed_class` the class token holds its own position, so that DINOv2's position of it is 0. A ViT
    without LayerScale gets one of ones. Features stay what they are.

    Args:
        mask_token: (1, C), which only training needs; zeros if not given.
        source: the backbone in words, for the error.

    Raises:
        UserError: DINOv2 has no such network.
    """
    if family_of(model) != "vit" or getattr(model, "cls_token", None) is None:
        raise UserError(
            f"{source} is no plain ViT with a class token, which DINOv2's names are for: export it --to timm or onnx."
        )
    weights = {name: tensor.detach().cpu().float().clone() for name, tensor in model.state_dict().items()}
    positions, classes = weights["pos_embed"], weights["cls_token"]
    grid = model.patch_embed.num_patches
    if model.no_embed_class:
        weights["pos_embed"] = torch.cat([torch.zeros_like(classes), positions], dim=1)
    elif positions.shape[1] != 1 + grid:
        raise UserError(f"{source} gives its registers positions, which DINOv2 does not: export it --to timm or onnx.")
    if "reg_token" in weights:
        weights["register_tokens"] = weights.pop("reg_token")
    width, depth = classes.shape[-1], len(model.blocks)
    for block in range(depth):
        for scale in ("ls1", "ls2"):
            weights.setdefault(f"blocks.{block}.{scale}.gamma", torch.ones(width))
    first = weights["blocks.0.mlp.fc1.weight"].shape[0]
    if first == 2 * weights["blocks.0.mlp.fc2.weight"].shape[1]:
        for theirs, timms in SWIGLU.items():
            weights = {name.replace(f".{timms}", f".{theirs}"): tensor for name, tensor in weights.items()}
    weights["mask_token"] = torch.zeros(1, width) if mask_token is None else mask_token.detach().cpu().float()
    known = re.compile(
        r"cls_token|pos_embed|mask_token|register_tokens|patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)"
        r"|blocks\.\d+\.((norm[12]|attn\.(qkv|proj)|mlp\.(fc[12]|w12|w3))\.(weight|bias)|ls[12]\.gamma)"
    )
    strange = [name for name in weights if not known.fullmatch(name)]
    if strange:
        raise UserError(f"{source} has {', '.join(strange[:3])}, for which DINOv2 has no name: export it --to timm.")
    return weights


def trained_mask_token(folder: Path) -> Tensor | None:
    """The mask token, (1, C), of the checkpoint that a backbone's folder belongs to; None where there is none."""
    file = folder.parent / "training.pt"
    if not file.is_file():
        return None
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    token = state.get("teacher", {}).get("mask_token")
    return token.reshape(1, -1).clone() if isinstance(token, Tensor) else None
