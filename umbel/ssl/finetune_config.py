"""The configuration of `umbel finetune`: what a recipe holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from umbel.config import read_recipe
from umbel.data.folder import check_data
from umbel.data.reader import ReaderConfig
from umbel.machine import DeviceChoice, choose_device
from umbel.run import say
from umbel.run_folder import RunFolder
from umbel.ssl.classifier import HeadChoice
from umbel.ssl.crowd_labels import LabelsConfig
from umbel.ssl.fit_config import FitOptimConfig, FitTrainConfig, OneViewConfig
from umbel.ssl.mix_images import MixImagesConfig

COMMAND = "finetune"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Train a classifier on labeled photographs, from a pretrained backbone; the same command continues it."""

    backbone: Annotated[str, tyro.conf.Positional]
    """A run, a folder with config.json and model.safetensors, a released checkpoint, hf-hub:NAME, or a timm model."""
    data: str
    """Labeled shards, or a folder of class folders (train/ and val/ over them, or not); a URL of shards."""
    out: Path
    """Run folder."""
    recipe: str = "auto"
    """A recipe's name or YAML file; auto: finetune/small-cpu on a CPU, finetune/vitb16 on a GPU."""
    seed: int = 0
    """Seed of order, views, mixed images and of what is held out."""
    device: DeviceChoice = "auto"
    """cpu, cuda, or auto: cuda where it is there."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""
    head: HeadChoice = "whole"
    """whole: the backbone is trained with the head; linear: the head alone, on a backbone that stays as it is."""
    held_out: float = 0.1
    """Share of every class to validate on where DATA has no split val."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    views: OneViewConfig = field(default_factory=lambda: OneViewConfig(size=0))
    mix: MixImagesConfig = field(default_factory=lambda: MixImagesConfig(mixup=0.1, cutmix=0.2))
    optim: FitOptimConfig = field(default_factory=lambda: FitOptimConfig(learning_rate=2e-3, layer_decay=0.75))
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    train: FitTrainConfig = field(default_factory=lambda: FitTrainConfig(average=0.999, patience=8))

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie between 0 and 1, not {self.held_out:g}")

    def check_data(self) -> None:
        """Refuse data that are not there; raises UserError."""
        check_data(self.data)

    def recipe_values(self) -> tuple[str, dict[str, Any]]:
        """The values of the recipe asked for, or of the one that fits this machine."""
        name = self.recipe
        begun = None if self.force or name != "auto" else RunFolder(self.out).previous(COMMAND)
        if begun is not None:
            name = str(begun.get("recipe", "auto"))
            say(f"recipe {name}: {self.out} was begun with it.")
        elif name == "auto":
            device = choose_device(self.device).value
            name = "finetune/small-cpu" if device == "cpu" else "finetune/vitb16"
            say(f"recipe {name}: the device is {device}.")
        return f"recipe {name}", read_recipe(name, COMMAND) | {"recipe": name}
