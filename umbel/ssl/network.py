"""Student and teacher: a ViT backbone, a mask token and the projection head in one module with one forward.

Source: Simplifying DINO via Coding Rate Regularization (arXiv 2502.10385).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from umbel.run import UserError
from umbel.ssl.head import Head, HeadConfig


def check_backbone(backbone: Any, name: str, drop_path: float) -> None:
    """Refuse a backbone that the trainer cannot train.

    Raises:
        UserError: no ViT with a class token, or drop path on blocks of another build.
    """
    if not hasattr(backbone, "_pos_embed") or not hasattr(backbone, "blocks"):
        raise UserError(
            f"backbone {name} is not a vision transformer of timm's: choose one, such as vit_small_patch16_224."
        )
    if getattr(backbone, "cls_token", None) is None:
        raise UserError(f"backbone {name} has no class token, which the image loss needs: choose a ViT that has one.")
    if hasattr(backbone.patch_embed, "backbone"):
        raise UserError(f"backbone {name} embeds feature maps of a convolutional network: choose a plain ViT.")
    parts = ("norm1", "attn", "ls1", "norm2", "mlp", "ls2")
    if drop_path and not all(hasattr(block, part) for block in backbone.blocks for part in parts):
        raise UserError(f"backbone {name} has blocks of its own build: set --optim.drop-path 0.")


def set_attention(backbone: nn.Module, *, fused: bool) -> None:
    """Choose the attention kernel of every block that has a choice (timm's `fused_attn`); results stay the same."""
    module: Any
    for module in backbone.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused


class Outputs(NamedTuple):
    classes: Tensor
    patches: Tensor
    tokens: Tensor


class Network(nn.Module):
    """Backbone and head; the student and the teacher are one of these each."""

    def __init__(self, backbone: Any, head: HeadConfig, drop_path: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = Head(backbone.num_features, head)
        self.mask_token = nn.Parameter(torch.zeros(backbone.num_features))
        self.drop_path = drop_path

    def forward(self, globals_: Tensor, locals_: Tensor | None, masks: Tensor | None, masked: Tensor) -> Outputs:
        """Project class tokens and masked patches.

        Args:
            globals_: (2B, 3, S, S), view-major.
            locals_: (L*B, 3, s, s), view-major, or None (the teacher sees no local views).
            masks: (2B, P) bool, patches replaced by the mask token, or None (the teacher sees everything).
            masked: (M,) int64, flat indices into (2B, P) of the patches whose outputs are wanted.

        Returns:
            (V, B, D) class outputs, V = 2 + L or 2; (M, D) patch outputs; both of length 1.
        """
        batch = len(globals_) // 2
        tokens = self.tokens(globals_, masks)
        patches = tokens[:, self.backbone.num_prefix_tokens :].flatten(0, 1)[masked]
        classes = [tokens[:, 0]]
        if locals_ is not None and len(locals_):
            classes.append(self.tokens(locals_, None)[:, 0])
        # One call of the head for all: its matrices are as large as a small backbone.
        class_tokens = torch.cat(classes)
        out = self.head(torch.cat([class_tokens, patches]))
        class_out, patch_out = out.split([len(class_tokens), len(patches)])
        return Outputs(class_out.view(-1, batch, out.shape[-1]), patch_out, classes[0].detach())

    def tokens(self, images: Tensor, masks: Tensor | None) -> Tensor:
        """(n, 3, H, W) and (n, P) -> (n, N, C), after the final norm: class token, registers, patches."""
        backbone = self.backbone
        x = backbone.patch_embed(images)  # (n, h, w, C)
        if masks is not None:
            # Before positions are added: the student knows where it cannot see.
            x = torch.where(masks.view(*x.shape[:-1], 1), self.mask_token.to(x.dtype), x)
        x = backbone.norm_pre(backbone._pos_embed(x))
        for block in backbone.blocks:
            x = drop_path_block(block, x, self.drop_path) if self.training and self.drop_path else block(x)
        normed: Tensor = backbone.norm(x)
        return normed


def drop_path_block(block: Any, x: Tensor, rate: float) -> Tensor:
    """A transformer block with stochastic depth by batch subset: each branch is computed for int(n (1 - rate)) rows."""
    x = add_to_subset(x, rate, lambda rows: block.ls1(block.attn(block.norm1(rows))))
    return add_to_subset(x, rate, lambda rows: block.ls2(block.mlp(block.norm2(rows))))


def add_to_subset(x: Tensor, rate: float, branch: Any) -> Tensor:
    """x + branch(x) on a random subset of the rows, scaled so that the mean stays; other rows pass unchanged."""
    n = len(x)
    kept = max(int(n * (1 - rate)), 1)
    rows = torch.randperm(n, device=x.device)[:kept]
    residual: Tensor = branch(x[rows])
    return torch.index_add(x, 0, rows, residual.to(x.dtype), alpha=n / kept)
