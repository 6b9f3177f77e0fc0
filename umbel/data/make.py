"""`umbel shards make folder` and `synthetic`: shards from a folder of photographs, or of plants drawn by Umbel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from umbel.data.convert import Sample
from umbel.data.folder import read_folder, set_aside
from umbel.data.make_config import MakeConfig, MakeUnsplitConfig, make_shards
from umbel.data.photograph import SizeBound, encode_photograph
from umbel.data.plan import SplitPlan
from umbel.data.synthetic import SPECIES, draw
from umbel.data.write import write_shards
from umbel.run import UserError, refuse_within, say


@dataclass(frozen=True, kw_only=True)
class MakeFolderConfig(MakeUnsplitConfig):
    """Make shards from a folder of photographs: class folders, flat, or train/val/test/unlabeled over either."""

    data: Annotated[Path, tyro.conf.Positional]
    """The folder of photographs."""
    test_share: float = 0.0
    """Share of each class's photographs that become the split test, by a hash of their paths; needs class folders."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.test_share < 1:
            raise UserError(f"--test-share is a share from 0 to below 1, not {self.test_share:g}.")


@dataclass(frozen=True, kw_only=True)
class MakeSyntheticConfig(MakeConfig):
    """Make shards of synthetic plants, drawn by Umbel: train for pretraining and support, test for queries."""

    train: int = 6000
    """Images of the train split."""
    test: int = 1200
    """Images of the test split."""
    size: int = 96
    """Side of an image in pixels."""
    quality: int = 92
    """JPEG quality."""
    shard_size: int = 600
    """Samples in a shard."""
    seed: int = 0
    """Seed of the drawings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train < 1 or self.test < 0 or not 16 <= self.size <= 1024:
            raise UserError("--train must be at least 1, --test at least 0 and --size between 16 and 1024.")


def make_folder(config: MakeFolderConfig) -> None:
    """Make shards from a folder of photographs.

    Raises:
        UserError: no photographs, too many bad ones, or `out` holds something else or lies among the photographs.
    """
    refuse_within(config.out, config.data)
    make_shards(config, "folder", set_aside(read_folder(config.data, config.split), config.test_share))


@dataclass(frozen=True, kw_only=True)
class PlantToSample:
    """Draws a shard's sample (a class, so that processes can be handed it)."""

    seed: int
    size: int
    quality: int

    def __call__(self, index: int) -> Sample:
        plant = draw(self.seed, index, size=self.size)
        jpg = encode_photograph(Image.fromarray(plant.image), bound=SizeBound(shorter=self.size), quality=self.quality)
        return Sample(
            key=f"plant_{index:08d}", jpg=jpg, label=plant.label, metadata=dict(plant.metadata), text=plant.text
        )


def make_synthetic(config: MakeSyntheticConfig) -> None:
    """Draw synthetic plants into shards; test images have their own indices, behind those of train.

    Raises:
        UserError: `out` holds something else.
    """
    splits = {"train": range(config.train), "test": range(config.train, config.train + config.test)}
    plan = [
        SplitPlan(split=split, rows=indices, order=range(len(indices)), shard_size=config.shard_size)
        for split, indices in splits.items()
    ]
    write_shards(
        config.out,
        plan,
        PlantToSample(seed=config.seed, size=config.size, quality=config.quality),
        source={"source": "synthetic", **config.settings()},
        classes=[species.name for species in SPECIES],
        workers=config.processes(config.train + config.test),
        max_bad=0.0,
        force=config.force,
        title="drawing plants",
    )
    shards = sum(len(part.shards()) for part in plan)
    say(f"{config.out}: {shards} shards of {config.train} train and {config.test} test images, {len(SPECIES)} species.")
