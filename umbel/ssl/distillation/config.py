"""The configuration of `umbel distill`: what a recipe holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from umbel.backbones.build import ShapeConfig
from umbel.config import read_recipe
from umbel.data.folder import check_data
from umbel.data.reader import ReaderConfig
from umbel.machine import DeviceChoice
from umbel.ssl.crowd_labels import LabelsConfig
from umbel.ssl.distillation.loss_config import DistillLossConfig
from umbel.ssl.fit_config import FIT_NOT_COMPARED, FitOptimConfig, FitTrainConfig, OneViewConfig
from umbel.ssl.mix_images import MixImagesConfig

DISTILL_NOT_COMPARED = (*FIT_NOT_COMPARED, "teacher")
"""The teacher may have moved: its weights are compared."""
PRETRAINED = "pretrained"
Photographs = Literal["auto", "all", "labeled"]


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Train a small backbone to see what a larger one sees; the same command continues an interrupted run."""

    teacher: Annotated[str, tyro.conf.Positional]
    """The backbone to learn from: a run, a folder, a released checkpoint, hf-hub:NAME, open_clip:NAME, or a timm model.
    A run of umbel finetune has a classifier, which loss.logits and loss.dist need."""
    student: str | None = None
    """The timm model to train, such as convnext_atto or vit_tiny_patch16_224."""
    data: str
    """Folder of photographs (class folders or flat), or shards: a folder, a brace pattern, or a URL of either."""
    out: Path
    """Run folder."""
    recipe: str | None = None
    """A recipe's name or YAML file; its settings are the defaults."""
    init: str | None = None
    """The student's first weights: pretrained (timm's own of that name), or a backbone as for the teacher; none: it
    starts from nothing."""
    photographs: Photographs = "auto"
    """Train on all photographs without test and val, or on those of the train split (labeled); auto: all where no loss
    needs labels."""
    seed: int = 0
    """Seed of weights, order, views and mixed images."""
    device: DeviceChoice = "auto"
    """cpu, cuda, or auto: cuda where it is there."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""
    backbone: ShapeConfig = field(default_factory=ShapeConfig)
    labels: LabelsConfig = field(default_factory=lambda: LabelsConfig(smoothing=0.0, balance=0.0))
    loss: DistillLossConfig = field(default_factory=DistillLossConfig)
    views: OneViewConfig = field(default_factory=lambda: OneViewConfig(size=0))
    mix: MixImagesConfig = field(default_factory=MixImagesConfig)
    optim: FitOptimConfig = field(default_factory=FitOptimConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    train: FitTrainConfig = field(default_factory=FitTrainConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, but is {self.seed}")
        if self.train.patience:
            raise ValueError("train.patience is for umbel finetune: a distillation goes to its end")
        if self.train.validate_epochs != FitTrainConfig.validate_epochs:
            raise ValueError("train.validate_epochs is for umbel finetune: a distillation is measured at its end")

    def check_data(self) -> None:
        """Refuse data that are not there; raises UserError."""
        check_data(self.data)

    def recipe_values(self) -> tuple[str, dict[str, Any]]:
        """The values of the recipe asked for; what it lists for `umbel sweep` to go over is left aside."""
        if self.recipe is None:
            return "no recipe", {}
        values = read_recipe(self.recipe, "distill") | {"recipe": self.recipe}
        return f"recipe {self.recipe}", {key: value for key, value in values.items() if key != "over"}
