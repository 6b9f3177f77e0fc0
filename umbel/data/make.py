"""`umbel shards make SOURCE`: shards from a folder of photographs, or of synthetic plants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from umbel.data.folder import PhotographToSample, read_folder, set_aside, shuffled
from umbel.data.photograph import encode_photograph
from umbel.data.scan import SPLIT_NAME
from umbel.data.synthetic import SPECIES, draw
from umbel.data.write import Sample, plan_shards, write_shards
from umbel.run import UserError, processors, refuse_overlap, say


@dataclass(frozen=True, kw_only=True)
class MakeFolderConfig:
    """Make shards from a folder of photographs: class folders, flat, or train/val/test/unlabeled over either."""

    data: Annotated[Path, tyro.conf.Positional]
    """The folder of photographs."""
    out: Path
    """Folder for the shards."""
    split: str = "train"
    """Split of the photographs, where the folders do not name it."""
    test_share: float = 0.0
    """Share of each class's photographs that become the split test, by a hash of their paths; needs class folders."""
    shorter_side: int = 384
    """Photographs are shrunk to this shorter side, in pixels; never enlarged."""
    quality: int = 90
    """JPEG quality."""
    shard_size: int = 1000
    """Samples in a shard."""
    max_bad: float = 0.01
    """Share of photographs that may be damaged (they are left out and named in bad.json) before the command stops."""
    seed: int = 0
    """Seed of the order of samples in the shards."""
    workers: int = 0
    """Processes; 0: one for each processor."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""


@dataclass(frozen=True, kw_only=True)
class MakeSyntheticConfig:
    """Make shards of synthetic plants, drawn by Umbel: train for pretraining and support, test for queries."""

    out: Path
    """Folder for the shards."""
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
    workers: int = 0
    """Processes; 0: one for each processor."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""


def make_folder(config: MakeFolderConfig) -> None:
    """Make shards from a folder of photographs.

    Raises:
        UserError: no photographs, too many bad ones, or `out` holds something else.
    """
    _check(config.shard_size, config.quality, config.seed, config.workers)
    if not 0 <= config.max_bad <= 1:
        raise UserError(f"--max-bad is a share between 0 and 1, not {config.max_bad:g}.")
    if config.shorter_side < 8:
        raise UserError(f"--shorter-side must be at least 8 pixels, not {config.shorter_side}.")
    if not 0 <= config.test_share < 1:
        raise UserError(f"--test-share is a share from 0 to below 1, not {config.test_share:g}.")
    if not SPLIT_NAME.fullmatch(config.split):
        raise UserError(
            f"--split must be a word of letters, digits and _, beginning with a letter, not '{config.split}'."
        )
    if config.force:
        refuse_overlap(config.data, config.out)
    folder = set_aside(read_folder(config.data, config.split), config.test_share)
    plan = [
        shard
        for split, rows in sorted(folder.splits.items())
        for shard in plan_shards(split, shuffled(rows, config.seed), config.shard_size)
    ]
    settings = {
        name: getattr(config, name) for name in ("split", "test_share", "shorter_side", "quality", "shard_size", "seed")
    }
    bad = write_shards(
        config.out,
        plan,
        PhotographToSample(shorter_side=config.shorter_side, quality=config.quality),
        source={"source": "folder", "fingerprint": folder.fingerprint, **settings},
        classes=folder.classes,
        workers=config.workers or processors(),
        max_bad=config.max_bad,
        force=config.force,
        title="making shards",
    )
    counts = ", ".join(f"{split} {len(rows)}" for split, rows in sorted(folder.splits.items()))
    say(f"{config.out}: shards of {counts} photographs, {len(bad)} left out, {len(folder.classes) or 'no'} classes.")
    for name, reason in list(bad.items())[:10]:
        say(f"left out: {name}: {reason}")
    if len(bad) > 10:
        say(f"left out: {len(bad) - 10} more, named in {config.out / 'bad.json'}")


@dataclass(frozen=True, kw_only=True)
class PlantToSample:
    """Draws a shard's sample (a class, so that processes can be handed it)."""

    seed: int
    size: int
    quality: int

    def __call__(self, index: int) -> Sample:
        plant = draw(self.seed, index, size=self.size)
        jpg = encode_photograph(Image.fromarray(plant.image), shorter_side=self.size, quality=self.quality)
        return Sample(
            key=f"plant_{index:08d}", jpg=jpg, label=plant.label, metadata=dict(plant.metadata), text=plant.text
        )


def make_synthetic(config: MakeSyntheticConfig) -> None:
    """Draw synthetic plants into shards; test images have their own indices, behind those of train.

    Raises:
        UserError: `out` holds something else.
    """
    _check(config.shard_size, config.quality, config.seed, config.workers)
    if config.train < 1 or config.test < 0 or not 16 <= config.size <= 1024:
        raise UserError("--train must be at least 1, --test at least 0 and --size between 16 and 1024.")
    plan = plan_shards("train", range(config.train), config.shard_size)
    plan += plan_shards("test", range(config.train, config.train + config.test), config.shard_size)
    settings = {name: getattr(config, name) for name in ("train", "test", "size", "quality", "shard_size", "seed")}
    write_shards(
        config.out,
        plan,
        PlantToSample(seed=config.seed, size=config.size, quality=config.quality),
        source={"source": "synthetic", **settings},
        classes=[species.name for species in SPECIES],
        workers=config.workers or processors(),
        max_bad=0.0,
        force=config.force,
        title="drawing plants",
    )
    say(
        f"{config.out}: {len(plan)} shards of {config.train} train and {config.test} test images, "
        f"{len(SPECIES)} species."
    )


def _check(shard_size: int, quality: int, seed: int, workers: int) -> None:
    if workers < 0:
        raise UserError(f"--workers must not be negative, but is {workers}.")
    if seed < 0:
        raise UserError(f"--seed must not be negative, but is {seed}.")
    if shard_size < 1:
        raise UserError(f"--shard-size must be at least 1, not {shard_size}.")
    if not 1 <= quality <= 100:
        raise UserError(f"--quality must lie between 1 and 100, not {quality}.")
