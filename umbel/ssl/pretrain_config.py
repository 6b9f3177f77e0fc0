"""The configuration of `umbel pretrain`: what a recipe holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from umbel.augment.views import ViewsConfig
from umbel.backbones.build import BackboneConfig
from umbel.coding_rate import Covariance
from umbel.config import read_recipe
from umbel.data.folder import check_data
from umbel.data.mixing import MixConfig
from umbel.data.reader import ReaderConfig
from umbel.machine import CompileChoice, DeviceChoice, PrecisionChoice
from umbel.ssl.head import HeadConfig
from umbel.ssl.masking import MaskConfig
from umbel.ssl.optimizer import OptimConfig
from umbel.ssl.probe_set import ProbeConfig

# Settings that may change when a run is continued: where it runs and lies, not what it computes.
NOT_COMPARED = (
    "data",
    "out",
    "recipe",
    "device",
    "force",
    "mix.data",
    "probe",
    "reader.workers",
    "reader.unreadable_shards",
    "reader.max_bad",
    "reader.timeout",
    "reader.cache_gib",
    "reader.allow_pipe",
    "train.batch",  # the global batch is: umbel.ssl.same_batch
    "train.accumulation",
    "train.compile",
    "train.timeout",
    "train.log_every",
    "train.save_every",
    "train.save_minutes",
    "train.keep_last",
)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the SimDINOv2 losses."""

    eps: float = 0.05
    """Precision of the coding rate."""
    coeff: float = 1.0
    """Weight of the compression (agreement of views)."""
    center_with_teacher: bool = True
    """Take the coding rate of the mean of student and teacher rather than of the student alone."""
    patch_weight: float = 1.0
    """Weight of the patch loss; 0 makes it SimDINO."""
    covariance: Covariance = "summed"
    """Over ranks: summed (W ranks equal one with the whole batch), or local (as the authors' public code)."""

    def __post_init__(self) -> None:
        if self.eps <= 0 or self.coeff < 0 or self.patch_weight < 0:
            raise ValueError("loss.eps must be positive, loss.coeff and loss.patch_weight not negative")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Batch, length, precision and saving."""

    batch: int = 128
    """Photographs of a micro-batch on each rank."""
    accumulation: int = 1
    """Micro-batches of an optimizer step; the coding rate sees micro-batch x ranks."""
    epochs: float = 100.0
    """Passes over the photographs."""
    precision: PrecisionChoice = "auto"
    """float32 or bf16 (matrix products; losses stay in float32); auto: bf16 where it is native."""
    activation_checkpointing: bool = False
    """Compute blocks again in the backward pass: about a third slower, much less memory."""
    compile: CompileChoice = "auto"
    """Compile the blocks: on, off, or auto: where it pays."""
    timeout: float = 600.0
    """Seconds without progress of any rank after which a run counts as hung."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints."""
    save_minutes: float = 10.0
    """Minutes after which a checkpoint is due where `save_every` steps take longer."""
    keep_last: int = 2
    """Newest checkpoints that are kept."""
    keep_every: int = 0
    """Keep the checkpoints of every so many steps for good; 0: none."""

    def __post_init__(self) -> None:
        for name in ("batch", "accumulation", "log_every", "save_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.epochs < math.inf or not self.save_minutes > 0 or not self.timeout > 0:
            raise ValueError("train.epochs, train.save_minutes and train.timeout must be positive")
        if self.keep_every < 0:
            raise ValueError(f"train.keep_every must not be negative, but is {self.keep_every}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a backbone on photographs without labels (SimDINOv2); the same command continues an interrupted run."""

    data: Annotated[str, tyro.conf.Positional]
    """Folder of photographs (class folders or flat), or shards: a folder, a brace pattern, or a URL of either."""
    out: Path
    """Run folder."""
    recipe: str = "auto"
    """A recipe's name or YAML file; auto: chosen by the number of photographs and the memory."""
    init: str | None = None
    """Backbone to start from: a timm name, hf-hub:NAME, a folder, a released checkpoint (.pth) or another run."""
    seed: int = 0
    """Seed of weights, order, views and masks."""
    device: DeviceChoice = "auto"
    """cpu, cuda, or auto: cuda where it is there."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, but is {self.seed}")

    def check_data(self) -> None:
        """Refuse data that are not there; raises UserError."""
        for data in self.all_data:
            check_data(data)

    @property
    def all_data(self) -> tuple[str, ...]:
        """What is trained on, mixed in, and probed."""
        return (self.data, *self.mix.data, *([self.probe.data] if self.probe.data else []))

    def recipe_values(self) -> tuple[str, dict[str, Any]]:
        """The values of the recipe asked for, or of the one that fits the data and this machine."""
        from umbel.ssl.recipe_choice import choose_recipe

        name = choose_recipe(self)
        return f"recipe {name}", read_recipe(name, "pretrain") | {"recipe": name}
