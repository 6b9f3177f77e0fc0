"""Where a vision transformer looks: the class token's attention in the last block, over the photograph.

Shown as by DINO (arXiv 2104.14294), averaged over heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

# The share of its light that a photograph keeps where nothing is attended to.
DARKEST = 0.2


def why_no_attention(model: Any) -> str:
    """What a backbone lacks for a picture of attention; "" where it has all."""
    blocks = getattr(model, "blocks", None)
    attention = getattr(blocks[-1], "attn", None) if isinstance(blocks, (nn.Sequential, nn.ModuleList)) else None
    if attention is None or not hasattr(attention, "attn_drop") or not hasattr(attention, "fused_attn"):
        return "the backbone is no transformer whose attention can be read"
    if getattr(model, "cls_token", None) is None:
        return "the backbone has no class token"
    return ""


@contextlib.contextmanager
def watched(model: Any) -> Iterator[list[Tensor]]:
    """A list that gets the last block's attention, (B, heads, N, N), of each forward inside; the model stays as it was.

    The fused kernel never has the attention as a tensor, so it is off meanwhile.
    """
    attention = model.blocks[-1].attn
    seen: list[Tensor] = []
    # In evaluation the dropout hands on what it gets: the attention behind the softmax.
    hook = attention.attn_drop.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    fused, attention.fused_attn = attention.fused_attn, False
    try:
        yield seen
    finally:
        attention.fused_attn = fused
        hook.remove()


def of_class_token(attention: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """What the class token gives to each patch, averaged over heads.

    Args:
        attention: (1, heads, N, N) of one photograph, rows sum to 1.
        prefix: tokens before the patches, the class token first.
        grid: rows and columns of patches.

    Returns:
        (rows, columns), 0 to 1.
    """
    return attention[0, :, 0, prefix:].float().mean(0).reshape(grid)


def over_photograph(photograph: Image.Image, attention: Tensor) -> Image.Image:
    """The photograph, light where the class token looks and dark elsewhere.

    Args:
        attention: (rows, columns); its 2nd percentile becomes dark and its 98th light.
    """
    low, high = torch.quantile(attention, 0.02), torch.quantile(attention, 0.98)
    light = ((attention - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).numpy()
    mask = Image.fromarray((255 * light).round().astype(np.uint8)).resize(photograph.size, Image.Resampling.BILINEAR)
    keep = DARKEST + (1 - DARKEST) * np.asarray(mask, dtype=np.float32)[..., None] / 255
    return Image.fromarray((np.asarray(photograph.convert("RGB")) * keep).round().astype(np.uint8))
