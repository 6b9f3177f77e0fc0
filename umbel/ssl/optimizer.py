"""AdamW with layer-wise learning rates, decay exclusions and clipping of backbone and head apart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from umbel.backbones.family import family_of
from umbel.ssl.network import Network
from umbel.ssl.schedules import cosine, scaled_learning_rate, warmup_cosine


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer, schedules and regularization of the student; momentum of the teacher."""

    learning_rate: float = 0.004
    """Peak at a global batch of 1024; scaled by sqrt(G / 1024)."""
    floor: float = 1e-6
    """Learning rate at the first step and at the end."""
    warmup_epochs: float = 10.0
    """Epochs of linear warm-up."""
    weight_decay: tuple[float, float] = (0.04, 0.4)
    """Weight decay at the start and at the end, on a cosine."""
    teacher_momentum: tuple[float, float] = (0.9, 1.0)
    """Momentum of the teacher's average at the start and at the end, on a cosine."""
    layer_decay: float = 0.9
    """Learning rate multiplier from a block to the one below."""
    patch_embed_multiplier: float = 0.2
    """Further multiplier of the patch embedding's learning rate; a ConvNeXt's is its stem."""
    clip: float = 3.0
    """Greatest gradient norm, for backbone and head each; 0: no clipping."""
    drop_path: float = 0.2
    """Stochastic depth of the student: share of the rows that each residual branch of every block leaves out."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's averages."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.floor < 0 or self.clip < 0 or self.warmup_epochs < 0:
            raise ValueError("optim.learning_rate must be positive; floor, clip and warmup_epochs not negative")
        for name in ("drop_path", "layer_decay", "patch_embed_multiplier"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name} must lie between 0 and 1, not {getattr(self, name)}")
        if not all(0 <= m <= 1 for m in self.teacher_momentum) or not all(0 <= b < 1 for b in self.betas):
            raise ValueError("optim.teacher_momentum must lie between 0 and 1, optim.betas below 1")


# What stands below the first block: l = 0.
STEM = (
    "mask_token",
    "backbone.cls_token",
    "backbone.reg_token",
    "backbone.pos_embed",
    "backbone.rope.",
    "backbone.patch_embed.",
    "backbone.norm_pre.",
)
TOKENS = ("mask_token", "backbone.cls_token", "backbone.reg_token", "backbone.pos_embed")
# The multiplier of the patch embedding acts on a ViT's and on a ConvNeXt's first convolution with its norm.
PATCH_EMBEDDING = ("backbone.patch_embed.", "backbone.stem.")


def layer_of(name: str, depth: int) -> int:
    """l of a ViT's layer-wise rate: 0 for tokens, positions, patch embedding; i + 1 for block i; depth + 1 above."""
    if name.startswith("backbone.blocks."):
        return int(name.split(".")[2]) + 1
    return 0 if name.startswith(STEM) else depth + 1


def layers_of(student: Network) -> tuple[dict[str, int], int]:
    """l of every parameter by its name, and the number of blocks.

    A ConvNeXt's come from timm: 0 for the stem, i + 1 for block i counted through the stages (with the downsampling
    before it), depth + 1 for the final norm; the projection head has depth + 1 too.
    """
    backbone = student.backbone
    names = [name for name, _ in student.named_parameters()]
    if family_of(backbone) != "convnext":
        depth = len(backbone.blocks)
        return {name: layer_of(name, depth) for name in names}, depth
    depth = sum(len(stage.blocks) for stage in backbone.stages)
    grouped = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    return {name: grouped.get(name.removeprefix("backbone."), depth + 1) for name in names}, depth


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay acts: on matrices, tokens and positions; not on biases, norms and LayerScale.

    Nor on learned rotary frequencies: at zero they would tell no place from another.
    """
    if name.startswith(TOKENS):
        return True
    return parameter.ndim > 1 and not name.startswith("backbone.rope.")


def parameter_groups(student: Network, config: OptimConfig) -> list[dict[str, object]]:
    """Parameters of equal multiplier and decay together: few groups keep the fused step fast."""
    layers, depth = layers_of(student)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        multiplier = config.layer_decay ** (depth + 1 - layers[name])
        if name.startswith(PATCH_EMBEDDING):
            multiplier *= config.patch_embed_multiplier
        groups.setdefault((multiplier, decays(name, parameter)), []).append(parameter)
    return [{"params": p, "multiplier": m, "decays": d} for (m, d), p in groups.items()]


def build_optimizer(student: Network, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the groups; rates and decay are set for every step by `Schedule.apply`."""
    return torch.optim.AdamW(parameter_groups(student, config), lr=config.floor, betas=config.betas, fused=True)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The values of a step, and their place in the optimizer."""

    config: OptimConfig
    global_batch: int
    steps_per_epoch: int
    total_steps: int

    def learning_rate(self, step: int) -> float:
        """The rate of a step, before layer-wise multipliers."""
        peak = scaled_learning_rate(self.config.learning_rate, self.global_batch)
        warmup = min(round(self.config.warmup_epochs * self.steps_per_epoch), self.total_steps)
        return warmup_cosine(
            step, peak=peak, floor=self.config.floor, warmup_steps=warmup, total_steps=self.total_steps
        )

    def weight_decay(self, step: int) -> float:
        """The weight decay of a step."""
        return cosine(*self.config.weight_decay, step / self.total_steps)

    def momentum(self, step: int) -> float:
        """The teacher's momentum at a step."""
        return cosine(*self.config.teacher_momentum, step / self.total_steps)

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set every group's rate and decay for a step."""
        rate, decay = self.learning_rate(step), self.weight_decay(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["multiplier"]
            group["weight_decay"] = decay if group["decays"] else 0.0


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients down to the norm `limit` (0: leave them); returns the norm before, without synchronizing."""
    return torch.nn.utils.clip_grad_norm_(list(parameters), limit or math.inf, error_if_nonfinite=False)


def step_unless(bad: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take the optimizer's step, or where `bad` (0-d, on the device) is 1 leave weights and averages as they are.

    Nothing is read back: the fused kernels look at this flag themselves, as torch's gradient scaler sets it.
    """
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    optimizer.step()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float, bad: Tensor) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for all parameters at once.

    Args:
        bad: 0-d float32 on the device: where it is 1 the teacher stays.
    """
    averages: Any = list(teacher.parameters())
    # A weight on the device: one from the host would have to wait for the flag.
    weight = (1 - momentum) * (1 - bad)
    torch._foreach_lerp_(averages, list(student.parameters()), [weight.to(p.dtype) for p in averages])
