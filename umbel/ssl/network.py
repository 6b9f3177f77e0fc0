"""Student and teacher: a backbone, a mask token and the projection head in one module with one forward.

Source: Simplifying DINO via Coding Rate Regularization (arXiv 2502.10385).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from umbel.backbones.family import family_of, refusal, stride_of
from umbel.run import UserError
from umbel.ssl.blocks import branches_of, compiled_run_block, run_block
from umbel.ssl.drop_path import draw_subset
from umbel.ssl.head import Head, HeadConfig
from umbel.ssl.positions import RotaryPositions, add_positions


class Outputs(NamedTuple):
    """What the losses and the measures of health take from a forward pass."""

    classes: Tensor
    """(V, B, D) class outputs of length 1; V = 2 + L, or 2 without local views."""
    patches: Tensor
    """(M, D) outputs of the patches asked for, of length 1."""
    tokens: Tensor
    """(2B, C) class tokens of the global views after the final norm, without gradient."""


def check_backbone(backbone: Any, name: str, *, drop_path: float, masked_views: float, patch_weight: float) -> None:
    """Refuse a backbone that the trainer cannot train, or not with these settings.

    Args:
        drop_path: optim.drop_path.
        masked_views: masks.views.
        patch_weight: loss.patch_weight.

    Raises:
        UserError: batch norm, neither a ViT nor a ConvNeXt, a ViT without class token, masks for a ConvNeXt, or drop
            path on blocks of another build.
    """
    reason = refusal(backbone, name)
    if reason is not None:
        raise UserError(reason)
    if family_of(backbone) == "convnext":
        if masked_views or patch_weight:
            raise UserError(
                f"backbone {name} is a ConvNeXt, which has no patch tokens to mask: "
                "set --masks.views 0 and --loss.patch-weight 0."
            )
    elif drop_path and not all(branches_of(block) for block in backbone.blocks):
        raise UserError(f"backbone {name} has blocks of its own build: set --optim.drop-path 0.")


def set_attention(backbone: nn.Module, *, fused: bool) -> None:
    """Choose the attention kernel of every block that has a choice (timm's `fused_attn`); results stay the same."""
    module: Any
    for module in backbone.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused


class Network(nn.Module):
    """Backbone and head; the student and the teacher are one of these each."""

    def __init__(
        self,
        backbone: Any,
        head: HeadConfig,
        drop_path: float,
        *,
        masking: bool = True,
        checkpoint_activations: bool = False,
        compile_blocks: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            backbone: a ViT, an Eva or a ConvNeXt of timm's; the first two built with `dynamic_img_size`.
            head: widths of the head.
            drop_path: share of the rows that each residual branch leaves out in training.
            masking: whether patches will be masked; if not, the mask token does not train, as data-parallel training
                waits for the gradient of every parameter that does.
            checkpoint_activations: keep only each block's input and compute the block again backward.
            compile_blocks: compile the blocks, all of one shape into one code.

        Raises:
            ValueError: a backbone of another kind.
        """
        super().__init__()
        family = family_of(backbone)
        if family is None or (family != "convnext" and not backbone.dynamic_img_size):
            raise ValueError("a ViT or Eva of timm's with dynamic_img_size, or a ConvNeXt, is needed")
        width = backbone.num_features
        self.convolutional = family == "convnext"
        self.backbone = backbone
        self.head = Head(width, head)
        self.mask_token = nn.Parameter(torch.zeros(width), requires_grad=masking)
        self.drop_path = drop_path
        self.checkpoint_activations = checkpoint_activations
        self.run_block = compiled_run_block() if compile_blocks else run_block
        self.rotary_positions = RotaryPositions()
        # A ConvNeXt's pooled feature stands for the class token, and there are no patch tokens.
        self.stride = stride_of(backbone)
        self.prefix = 1 if self.convolutional else int(backbone.num_prefix_tokens)

    def forward(self, globals_: Tensor, locals_: Tensor | None, masks: Tensor | None, masked: Tensor) -> Outputs:
        """Project class tokens and masked patches.

        Args:
            globals_: (2B, 3, S, S), view-major.
            locals_: (L*B, 3, s, s), view-major, or None (the teacher sees no local views).
            masks: (2B, P) bool, patches replaced by the mask token, or None (the teacher sees everything). A ConvNeXt
                masks nothing.
            masked: (M,) int64, flat indices into (2B, P) of the patches whose outputs are wanted; M = 0 for a ConvNeXt.
        """
        batch = len(globals_) // 2
        tokens = self.tokens(globals_, masks)
        patches = tokens[:, self.prefix :].flatten(0, 1).index_select(0, masked)
        classes = [tokens[:, 0]]
        if locals_ is not None and len(locals_):
            classes.append(self.tokens(locals_, None)[:, 0])
        # One call of the head for all: its matrices are as large as a small backbone.
        class_tokens = torch.cat(classes)
        out = self.head(torch.cat([class_tokens, patches]))
        class_out, patch_out = out.split([len(class_tokens), len(patches)])
        return Outputs(
            classes=class_out.view(-1, batch, out.shape[-1]),
            patches=patch_out,
            tokens=class_tokens[: len(globals_)].detach(),
        )

    def tokens(self, images: Tensor, masks: Tensor | None) -> Tensor:
        """Tokens after the final norm: class token, registers, patches.

        Args:
            images: (n, 3, H, W).
            masks: (n, P) bool, or None.

        Returns:
            (n, N, C); for a ConvNeXt (n, 1, C), its pooled feature as `model(images)` gives it.
        """
        if self.convolutional:
            return self.pooled_feature(images)[:, None]
        backbone = self.backbone
        x = backbone.patch_embed(images)  # (n, h, w, C)
        grid = (int(x.shape[1]), int(x.shape[2]))
        if masks is not None:
            # Before positions are added: the student knows where it cannot see.
            x = torch.where(masks.view(*x.shape[:-1], 1), self.mask_token.to(x.dtype), x)
        x = backbone.norm_pre(add_positions(backbone, x))
        for block, rope in zip(backbone.blocks, self.rotary_positions(backbone, grid), strict=True):
            x = self.block(block, x, rope)
        # Networks that pool before they norm have the final norm in fc_norm, the others an identity.
        normed: Tensor = backbone.fc_norm(backbone.norm(x))
        return normed

    def pooled_feature(self, images: Tensor) -> Tensor:  # (n, 3, H, W) -> (n, C)
        """A ConvNeXt's feature after its own pooling and norm."""
        backbone = self.backbone
        x = backbone.stem(images)
        for stage in backbone.stages:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = self.block(block, x, None)
        feature: Tensor = backbone.head(backbone.norm_pre(x), pre_logits=True)
        return feature

    def block(self, block: Any, x: Tensor, rope: Tensor | None) -> Tensor:
        """A block, with drop path in training, and its activations kept or not."""
        dropping = self.training and self.drop_path > 0
        # Drawn outside of what is compiled or computed again.
        subsets = tuple(draw_subset(len(x), self.drop_path, x.device) if dropping else None for _ in branches_of(block))
        if self.checkpoint_activations and self.training:
            again: Tensor = checkpoint(self.run_block, block, x, rope, subsets, use_reentrant=False)
            return again
        return self.run_block(block, x, rope, subsets)
