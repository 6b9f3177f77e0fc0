"""Layer-wise rates, decay and the schedule of fitted networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import nn

from umbel.ssl.fit_config import FitOptimConfig, FitTrainConfig, OneViewConfig
from umbel.ssl.fit_optimizer import FitSchedule, fit_groups, fit_optimizer
from umbel.ssl.learner import Learner

VIT: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 3, "num_heads": 1, "num_classes": 0}


class Plain(Learner):
    """A backbone with a head."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(8, 2)

    def forward(self, *_: Any) -> torch.Tensor:
        raise NotImplementedError


def rates(learner: Learner, config: FitOptimConfig) -> dict[str, tuple[float, bool]]:
    """Multiplier and decay by name."""
    groups: Any = fit_groups(learner, config)
    of = {id(p): (group["multiplier"], group["decays"]) for group in groups for p in group["params"]}
    return {name: of[id(p)] for name, p in learner.named_parameters() if id(p) in of}


def test_a_vits_rates_fall_from_block_to_block() -> None:
    found = rates(Plain(timm.create_model("vit_tiny_patch16_224", **VIT)), FitOptimConfig(layer_decay=0.5))
    assert found["head.weight"] == (1.0, True)
    assert found["head.bias"] == (1.0, False)
    assert found["backbone.norm.weight"] == (1.0, False)
    for block in range(3):
        assert found[f"backbone.blocks.{block}.mlp.fc1.weight"] == (0.5 ** (3 - block), True)
    assert found["backbone.patch_embed.proj.weight"] == (0.5**4, True)
    assert found["backbone.cls_token"] == (0.5**4, True)


@pytest.mark.parametrize("name", ["convnext_atto", "resnet10t"])
def test_others_too(name: str) -> None:
    found = rates(Plain(timm.create_model(name, num_classes=0)), FitOptimConfig(layer_decay=0.5))
    multipliers = [multiplier for parameter, (multiplier, _) in found.items() if parameter.startswith("backbone.")]
    assert found["head.weight"][0] == 1.0
    assert multipliers[0] == min(multipliers)
    assert len(set(multipliers)) > 4
    assert sorted(set(multipliers)) == [m for m in sorted(set(multipliers)) if math.log2(m).is_integer()]


def test_what_is_frozen_is_left_out() -> None:
    learner = Plain(timm.create_model("vit_tiny_patch16_224", **VIT))
    learner.backbone.requires_grad_(False)
    assert set(rates(learner, FitOptimConfig(layer_decay=0.5))) == {"head.weight", "head.bias"}


def test_the_rate_rises_falls_and_grows_with_the_batch() -> None:
    config = FitOptimConfig(learning_rate=0.1, floor=0.001, warmup=0.1, weight_decay=0.3, layer_decay=0.5)
    schedule = FitSchedule(config=config, global_batch=384, total_steps=100)
    assert schedule.learning_rate(0) == 0.001
    assert schedule.learning_rate(10) == pytest.approx(0.1 * math.sqrt(384 / 1536))
    assert schedule.learning_rate(55) == pytest.approx((0.05 + 0.001) / 2)
    assert schedule.learning_rate(100) == pytest.approx(0.001)
    learner = Plain(timm.create_model("vit_tiny_patch16_224", **VIT))
    optimizer = fit_optimizer(learner, config)
    schedule.apply(optimizer, 10)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.05 * group["multiplier"])
        assert group["weight_decay"] == (0.3 if group["decays"] else 0.0)


@pytest.mark.parametrize(
    ("config", "settings", "word"),
    [
        (FitOptimConfig, {"learning_rate": 0.0}, "optim.learning_rate"),
        (FitOptimConfig, {"learning_rate": math.inf}, "optim.learning_rate"),
        (FitOptimConfig, {"floor": math.nan}, "optim.floor"),
        (FitOptimConfig, {"clip": math.nan}, "optim.clip"),
        (FitOptimConfig, {"weight_decay": -0.1}, "optim.weight_decay"),
        (FitOptimConfig, {"weight_decay": math.nan}, "optim.weight_decay"),
        (FitOptimConfig, {"layer_decay": 1.5}, "optim.layer_decay"),
        (FitOptimConfig, {"warmup": -1.0}, "optim.warmup"),
        (FitOptimConfig, {"betas": (0.9, 1.0)}, "optim.betas"),
        (FitTrainConfig, {"average": 1.0}, "train.average"),
        (FitTrainConfig, {"patience": -1}, "train.patience"),
        (FitTrainConfig, {"epochs": math.inf}, "train.epochs"),
        (FitTrainConfig, {"batch": 0}, "train.batch"),
        (OneViewConfig, {"size": 2}, "^views.size must be at least 4$"),
        (OneViewConfig, {"area": (0.5, 0.1)}, "^views.area"),
        (OneViewConfig, {"policy": "plants"}, "did you mean 'plant'"),
    ],
)
def test_settings_that_are_none(config: Any, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        config(**settings)
