"""The residual branches of timm's blocks, so that drop path can leave rows out of each; and their compilation.

Every block runs through one function, `run_block`: compiled once, its code serves all blocks of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.convnext import ConvNeXtBlock
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor

from umbel.ssl.drop_path import Subset, add_branch

Branch = Callable[[Any, Tensor, Tensor | None], Tensor]
# Codes of one function: a network has at most 4 shapes of blocks (ConvNeXt), each with global and local views of the
# student and global ones of the teacher; torch's own limit of 8 would silently leave the rest uncompiled.
RECOMPILE_LIMIT = 64


def vit_attention(block: Any, x: Tensor, _: Tensor | None) -> Tensor:  # (n, N, C)
    out: Tensor = block.ls1(block.attn(block.norm1(x)))
    return out


def vit_mlp(block: Any, x: Tensor, _: Tensor | None) -> Tensor:  # (n, N, C)
    out: Tensor = block.ls2(block.mlp(block.norm2(x)))
    return out


def post_norm_attention(block: Any, x: Tensor, rope: Tensor | None) -> Tensor:  # (n, N, C)
    out: Tensor = block.norm1(block.attn(x) if rope is None else block.attn(x, rope=rope))
    return out


def post_norm_mlp(block: Any, x: Tensor, _: Tensor | None) -> Tensor:  # (n, N, C)
    out: Tensor = block.norm2(block.mlp(x))
    return out


def eva_attention(block: Any, x: Tensor, rope: Tensor | None) -> Tensor:  # (n, N, C)
    out: Tensor = block.attn(block.norm1(x), rope=rope)
    return out if block.gamma_1 is None else block.gamma_1 * out


def eva_mlp(block: Any, x: Tensor, _: Tensor | None) -> Tensor:  # (n, N, C)
    out: Tensor = block.mlp(block.norm2(x))
    return out if block.gamma_2 is None else block.gamma_2 * out


def convnext_branch(block: Any, x: Tensor, _: Tensor | None) -> Tensor:  # (n, C, h, w)
    x = block.conv_dw(x)
    if block.use_conv_mlp:
        x = block.mlp(block.norm(x))
    else:
        x = block.mlp(block.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    return x if block.gamma is None else x * block.gamma.reshape(1, -1, 1, 1)


# By the very class: a subclass may have a forward of its own.
BRANCHES: dict[type, tuple[Branch, ...]] = {
    Block: (vit_attention, vit_mlp),
    ResPostBlock: (post_norm_attention, post_norm_mlp),
    EvaBlock: (eva_attention, eva_mlp),
    EvaBlockPostNorm: (post_norm_attention, post_norm_mlp),
    ConvNeXtBlock: (convnext_branch,),
}


def branches_of(block: Any) -> tuple[Branch, ...]:
    """The residual branches of a block in their order; none where its build is not known."""
    return BRANCHES.get(type(block), ())


def run_block(block: Any, x: Tensor, rope: Tensor | None, subsets: tuple[Subset | None, ...]) -> Tensor:
    """A block, each branch on its subset of the rows (None: all of them).

    Args:
        block: a block of timm's, its own drop path left out.
        x: (n, N, C), or (n, C, h, w) for a ConvNeXt.
        rope: rotary embedding, the same for all rows.
        subsets: one for each branch; empty for a block whose branches are not known.
    """
    branches = branches_of(block)
    if not branches:
        whole: Tensor = block(x) if rope is None else block(x, rope=rope)
        return whole
    for branch, subset in zip(branches, subsets, strict=True):
        x = add_branch(x, lambda rows, branch=branch: branch(block, rows, rope), subset)  # type: ignore[misc]
    return x


def compiled_run_block() -> Callable[..., Tensor]:
    """`run_block` compiled, for each shape apart: shapes are few and fixed, and dynamic code is slower.

    Two settings of the process change: room for all shapes, and no splitting of graphs at data-parallel buckets, for
    which a block is too small.
    """
    import torch._dynamo.config as settings

    settings.recompile_limit = max(settings.recompile_limit, RECOMPILE_LIMIT)
    settings.optimize_ddp = False
    return torch.compile(run_block, dynamic=False)
