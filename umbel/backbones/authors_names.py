"""The tensors of SimDINOv2's and DINOv2's backbones: their names, shapes and timm's names for them.

Sources: arXiv 2502.10385, arXiv 2304.07193.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Blocks may stand in chunks: blocks.<chunk>.<i>., where i counts through all of them.
BLOCK = re.compile(r"blocks\.(\d+)\.(?:(\d+)\.)?(\D.*)")
SWIGLU = {"mlp.w12.": "mlp.fc1.", "mlp.w3.": "mlp.fc2."}


def expected_shapes(
    *, width: int, depth: int, patch: int, grid: int, registers: int, swiglu: bool
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a backbone, blocks not in chunks.

    Args:
        patch: side of a patch in pixels.
        grid: patches along a side of the images that positions were learned for.
        swiglu: whether the MLPs are gated (DINOv2's giant).
    """
    block = _block_shapes(width, swiglu=swiglu)
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid * grid, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        **({"register_tokens": (1, registers, width)} if registers else {}),
        **{f"blocks.{i}.{k}": v for i in range(depth) for k, v in block.items()},
        "norm.weight": (width,),
        "norm.bias": (width,),
    }


def _block_shapes(width: int, *, swiglu: bool) -> dict[str, tuple[int, ...]]:
    """The tensors of one block."""
    shapes: dict[str, tuple[int, ...]] = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "ls1.gamma": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "ls2.gamma": (width,),
    }
    # SwiGLU has two thirds of the usual hidden width, rounded up to a multiple of 8, and two such layers in one matrix.
    hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8 if swiglu else 4 * width
    first, second, rows = ("w12", "w3", 2 * hidden) if swiglu else ("fc1", "fc2", hidden)
    return shapes | {
        f"mlp.{first}.weight": (rows, width),
        f"mlp.{first}.bias": (rows,),
        f"mlp.{second}.weight": (width, hidden),
        f"mlp.{second}.bias": (width,),
    }


def in_timms_names(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's state dict, float32, of the tensors in the authors' names.

    The class token's position goes into the class token: with `no_embed_class` timm adds positions to patches alone.
    """
    weights = {name: tensor.float() for name, tensor in found.items()}
    positions = weights.pop("pos_embed")
    weights["pos_embed"] = positions[:, 1:].clone()
    weights["cls_token"] = weights["cls_token"] + positions[:, :1]
    if "register_tokens" in weights:
        weights["reg_token"] = weights.pop("register_tokens")
    for theirs, timms in SWIGLU.items():
        weights = {name.replace(f".{theirs}", f".{timms}"): tensor for name, tensor in weights.items()}
    return weights
