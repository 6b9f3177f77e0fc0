"""What all sources of shards have in common: their options, and the way from photographs to a folder of shards."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel.config import to_values
from umbel.data.join_labels import join_labels, read_labels
from umbel.data.photograph import SizeBound
from umbel.data.photograph_set import PhotographSet
from umbel.data.plan import SplitPlan, shuffled
from umbel.data.scan import SPLIT_NAME
from umbel.data.to_sample import PhotographToSample
from umbel.data.write import TALLIED, write_shards
from umbel.run import UserError, processors, read_json, refuse_overlap, say

NOT_COMPARED = ("data", "out", "images", "labels", "workers", "force", "max_bad", "download")
"""Settings that do not change the shards, and paths, of which the content is compared."""

WORTH_A_PROCESS = 200
"""Photographs that take as long to convert as a process takes to start."""

TOLD = 10
"""Lines of a long list that are printed; files hold the rest."""


@dataclass(frozen=True, kw_only=True)
class MakeConfig:
    """Options of every `shards make`."""

    out: Path
    """Folder for the shards."""
    quality: int = 90
    """JPEG quality."""
    shard_size: int = 1000
    """Samples in a shard."""
    seed: int = 0
    """Seed of the order of samples in the shards."""
    workers: int = 0
    """Processes; 0: one for each processor, fewer for a few hundred photographs."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"--workers must not be negative, but is {self.workers}.")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, but is {self.seed}.")
        if self.shard_size < 1:
            raise UserError(f"--shard-size must be at least 1, not {self.shard_size}.")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality must lie between 1 and 100, not {self.quality}.")

    def processes(self, count: int) -> int:
        """Processes for so many photographs."""
        return self.workers or min(processors(), -(-count // WORTH_A_PROCESS))

    def settings(self) -> dict[str, Any]:
        """The settings that a folder of shards is recognised by."""
        values: dict[str, Any] = to_values(self)
        return {name: value for name, value in values.items() if name not in NOT_COMPARED}

    def inputs(self) -> list[Path]:
        """The paths that are read."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "out"]
        return [
            path
            for value in values
            for path in (value if isinstance(value, tuple) else (value,))
            if isinstance(path, Path)
        ]


@dataclass(frozen=True, kw_only=True)
class MakePhotographsConfig(MakeConfig):
    """Options of every source of photographs."""

    shorter_side: int = 384
    """Photographs are shrunk to this shorter side, in pixels; never enlarged."""
    longer_side: int | None = None
    """Bound the longer side, in pixels, instead of the shorter one."""
    max_bad: float = 0.01
    """Share of photographs that may be damaged (they are left out and named in bad.json) before the command stops."""
    labels: Path | None = None
    """Labels by observation, from votes or elsewhere: CSV or Parquet with the columns observation and label and, where
    there are any, valid (true or false; an empty one is true), conf, acc and weight. An observation is a photograph's
    observation id, image id, file name without suffix, or key: the one of these that the file knows most of. The labels
    replace the source's; photographs without a valid one stay, unlabeled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.max_bad <= 1:
            raise UserError(f"--max-bad is a share between 0 and 1, not {self.max_bad:g}.")
        for name, side in (("--shorter-side", self.shorter_side), ("--longer-side", self.longer_side)):
            if side is not None and side < 8:
                raise UserError(f"{name} must be at least 8 pixels, not {side}.")

    def bound(self) -> SizeBound:
        """The side that is bounded."""
        if self.longer_side is not None:
            return SizeBound(longer=self.longer_side)
        return SizeBound(shorter=self.shorter_side)


@dataclass(frozen=True, kw_only=True)
class MakeUnsplitConfig(MakePhotographsConfig):
    """Options of sources that may leave it open of which split a photograph is."""

    split: str = "train"
    """Split of the photographs for which the source names none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_split(self.split)


def make_shards(config: MakePhotographsConfig, source: str, photographs: PhotographSet) -> None:
    """Make shards from a set of photographs and say what became of it.

    Raises:
        UserError: too many bad photographs, labels that do not fit, or `out` holds something else, or something that
            is read where it would be moved aside.
    """
    if config.force and config.out.exists():
        for path in sorted({*map(str, config.inputs()), *photographs.places()}):
            refuse_overlap(path, config.out)
    told: dict[str, Any] = {"source": source, "fingerprint": photographs.fingerprint, **config.settings()}
    told["labels"] = None
    if config.labels is not None:
        labels = read_labels(config.labels)
        photographs = join_labels(photographs, labels)
        told["labels"] = labels.fingerprint
    plan = [
        SplitPlan(
            split=split,
            rows=rows,
            order=shuffled(rows, config.seed),
            shard_size=config.shard_size,
            archive=photographs.archives.get(split),
        )
        for split, rows in sorted(photographs.splits.items())
    ]
    bad = write_shards(
        config.out,
        plan,
        PhotographToSample(bound=config.bound(), quality=config.quality),
        source=told,
        classes=photographs.classes,
        workers=config.processes(len(photographs)),
        max_bad=config.max_bad,
        force=config.force,
        title="making shards",
    )
    counts = ", ".join(f"{split} {len(rows)}" for split, rows in sorted(photographs.splits.items()))
    classes = len(photographs.classes) or "no"
    say(f"{config.out}: shards of {counts} photographs, {len(bad)} left out, {classes} classes.")
    _say_licenses(config.out)
    for name, reason in list(bad.items())[:TOLD]:
        say(f"left out: {name}: {reason}")
    if len(bad) > TOLD:
        say(f"left out: {len(bad) - TOLD} more, named in {config.out / 'bad.json'}")


def check_split(split: str) -> None:
    """Refuse a split that makes no name of a shard.

    Raises:
        UserError: it is none.
    """
    if not SPLIT_NAME.fullmatch(split):
        raise UserError(f"a split must be a word of letters, digits and _, beginning with a letter, not '{split}'.")


def _say_licenses(out: Path) -> None:
    file = out / "licenses.json"
    if not file.is_file():
        return
    told = read_json(file, "the tally of licenses")
    licenses, holders = (told[name] for name in TALLIED.values())
    for name, count in list(licenses.items())[:TOLD]:
        say(f"license: {count:,} photographs: {name}")
    say(f"licenses: {len(licenses):,}, rights holders: {len(holders):,}; counted in {file}")
