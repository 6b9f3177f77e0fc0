"""What fine-tuning and distillation share of their configurations: views, mixed images, optimizer, length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

from umbel.augment.own_policy import Policy
from umbel.augment.views import PolicyFlag, ViewsConfig
from umbel.data.reader import ReaderConfig
from umbel.machine import DeviceChoice, PrecisionChoice
from umbel.ssl.mix_images import MixImagesConfig

# Settings that may change when such a run is continued: where it runs and lies, not what it computes.
FIT_NOT_COMPARED = (
    "data",
    "out",
    "recipe",
    "device",
    "force",
    "reader.workers",
    "reader.unreadable_shards",
    "reader.max_bad",
    "reader.timeout",
    "reader.cache_gib",
    "reader.allow_pipe",
    "train.batch",  # the global batch is: umbel.ssl.same_batch
    "train.accumulation",
    "train.timeout",
    "train.log_every",
    "train.save_every",
    "train.save_minutes",
    "train.keep_last",
)


@dataclass(frozen=True, kw_only=True)
class OneViewConfig:
    """The view that is taken of each photograph."""

    size: int = 224
    """Side of the view in pixels; 0: of the images that the network was made for."""
    area: tuple[float, float] = (0.35, 1.0)
    """Share of the photograph that it covers."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of the box, log-uniform."""
    flip: float = 0.5
    """Probability of mirroring left to right."""
    policy: Annotated[Policy, PolicyFlag] = "plant"
    """What follows the crop: plant, plant-paper, dinov2 or none; a recipe may also list operations of its own."""

    def __post_init__(self) -> None:
        try:
            self.views()
        except ValueError as error:
            told = str(error)
            for theirs, ours in (("global_size and views.local_size", "size"), ("global_area", "area")):
                told = told.replace(f"views.{theirs}", f"views.{ours}")
            raise ValueError(told.replace(", views.local_views at least 0", "")) from error

    def views(self) -> ViewsConfig:
        """The same for `umbel.augment.views.Views`: a first global view, and no others."""
        size = self.size or 224  # not decided yet: the other settings are checked with any
        return ViewsConfig(
            global_size=size,
            local_size=size,
            local_views=0,
            global_area=self.area,
            aspect=self.aspect,
            flip=self.flip,
            policy=self.policy,
        )


@dataclass(frozen=True, kw_only=True)
class FitOptimConfig:
    """AdamW with layer-wise rates, a cosine and a short warm-up."""

    learning_rate: float = 5e-4
    """Peak at a global batch of 1536; scaled by sqrt(G / 1536)."""
    floor: float = 1e-6
    """Learning rate at the first step and at the end."""
    warmup: float = 0.05
    """Share of the steps that the rate takes to rise."""
    weight_decay: float = 0.05
    """Weight decay of matrices, tokens and positions."""
    layer_decay: float = 1.0
    """Learning rate multiplier from a block of the backbone to the one below."""
    clip: float = 3.0
    """Greatest gradient norm; 0: no clipping."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's averages."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"optim.learning_rate must be positive, not {self.learning_rate:g}")
        for name in ("floor", "clip", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} must be a number from 0, not {getattr(self, name):g}")
        for name in ("warmup", "layer_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name} must lie between 0 and 1, not {getattr(self, name):g}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas must lie between 0 and 1, not {self.betas}")


@dataclass(frozen=True, kw_only=True)
class FitTrainConfig:
    """Batch, length, averaging, validation, saving."""

    batch: int = 64
    """Photographs of a micro-batch on each rank."""
    accumulation: int = 1
    """Micro-batches of an optimizer step."""
    epochs: float = 30.0
    """Passes over the photographs."""
    precision: PrecisionChoice = "auto"
    """float32 or bf16 (matrix products; losses stay in float32); auto: bf16 where it is native."""
    average: float = 0.0
    """Momentum of the averaged weights, which are validated and exported, once they are old enough; 0: no average."""
    validate_epochs: float = 1.0
    """Epochs between validations; after the last step there is one."""
    patience: int = 0
    """Validations without a better score after which training stops; 0: it goes to the end."""
    timeout: float = 600.0
    """Seconds without progress of any rank after which a run counts as hung."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints."""
    save_minutes: float = 10.0
    """Minutes after which a checkpoint is due where `save_every` steps take longer."""
    keep_last: int = 1
    """Newest checkpoints that are kept."""

    def __post_init__(self) -> None:
        for name in ("batch", "accumulation", "log_every", "save_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("epochs", "validate_epochs", "save_minutes", "timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"train.{name} must be positive, not {getattr(self, name):g}")
        if not 0 <= self.average < 1:
            raise ValueError(f"train.average must be at least 0 and below 1, not {self.average:g}")
        if self.patience < 0:
            raise ValueError(f"train.patience must not be negative, but is {self.patience}")


class FitConfig(Protocol):
    """What the loop wants to know; the configurations of the commands have it."""

    @property
    def seed(self) -> int:
        """Seed of order, views, mixed images and what networks draw."""

    @property
    def device(self) -> DeviceChoice:
        """cpu or cuda."""

    @property
    def views(self) -> OneViewConfig:
        """The view of each photograph."""

    @property
    def mix(self) -> MixImagesConfig:
        """Images that are mixed."""

    @property
    def optim(self) -> FitOptimConfig:
        """Optimizer and schedule."""

    @property
    def reader(self) -> ReaderConfig:
        """How samples are read."""

    @property
    def train(self) -> FitTrainConfig:
        """Batch, length, precision and saving."""
