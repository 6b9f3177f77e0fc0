"""AdamW and its schedule for networks that are fitted: layer-wise rates in the backbone, the full rate above it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from umbel.backbones.family import family_of
from umbel.ssl.fit_config import FitOptimConfig
from umbel.ssl.learner import Learner
from umbel.ssl.optimizer import decays, layers_of
from umbel.ssl.schedules import warmup_cosine

REFERENCE_BATCH = 1536


def fit_layers(learner: Learner) -> tuple[dict[str, int], int]:
    """l of every parameter by its name, and the number of blocks: depth + 1 for all that is not the backbone's.

    Of networks of other families timm tells the layers.
    """
    whole: Any = learner
    if family_of(learner.backbone) is not None:
        return layers_of(whole)
    backbone = learner.backbone
    grouped = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    depth = max(grouped.values(), default=0)
    names = (name for name, _ in learner.named_parameters())
    above = depth + 1
    return {
        name: grouped.get(name.removeprefix("backbone."), above) if name.startswith("backbone.") else above
        for name in names
    }, depth


def fit_groups(learner: Learner, config: FitOptimConfig) -> list[dict[str, object]]:
    """Parameters that train, those of equal multiplier and decay together."""
    layers, depth = fit_layers(learner)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            multiplier = config.layer_decay ** (depth + 1 - layers[name])
            groups.setdefault((multiplier, decays(name, parameter)), []).append(parameter)
    return [{"params": p, "multiplier": m, "decays": d} for (m, d), p in groups.items()]


def fit_optimizer(learner: Learner, config: FitOptimConfig) -> torch.optim.AdamW:
    """AdamW over the groups; rates and decay are set for every step by `FitSchedule.apply`."""
    return torch.optim.AdamW(fit_groups(learner, config), lr=config.floor, betas=config.betas, fused=True)


@dataclass(frozen=True, kw_only=True)
class FitSchedule:
    """The values of a step, and their place in the optimizer."""

    config: FitOptimConfig
    global_batch: int
    total_steps: int

    def learning_rate(self, step: int) -> float:
        """The rate of a step, before layer-wise multipliers."""
        return warmup_cosine(
            step,
            peak=self.config.learning_rate * (self.global_batch / REFERENCE_BATCH) ** 0.5,
            floor=self.config.floor,
            warmup_steps=round(self.config.warmup * self.total_steps),
            total_steps=self.total_steps,
        )

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set every group's rate and decay for a step."""
        rate = self.learning_rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["multiplier"]
            group["weight_decay"] = self.config.weight_decay if group["decays"] else 0.0
