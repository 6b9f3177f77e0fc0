"""`umbel probe BACKBONE --suite NAME`: several sets by one protocol, our figures beside the published ones."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from umbel.data.index import find_shards, open_shards
from umbel.evaluation.embed import embed
from umbel.evaluation.estimates import Estimate, over_draws
from umbel.evaluation.fewshot import nearest_centroid
from umbel.evaluation.probe_words import aligned
from umbel.evaluation.reading import ReadConfig, load_to_read
from umbel.machine import choose_workers
from umbel.run import UserError, say


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Sets, how they are measured, and what others reached."""

    name: str
    shots: int
    folds: int
    source: str
    """Where the data come from, in words."""
    sets: tuple[str, ...]
    published: Mapping[str, Mapping[str, tuple[float, float]]]
    """Name -> set -> mean and population deviation over folds, in percent."""


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """One set: accuracy in each fold."""

    name: str
    photographs: int
    classes: int
    accuracies: list[float]
    accuracy: Estimate
    """Over folds."""
    deviation: float
    """Population deviation over folds, as published."""


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """All sets that are there."""

    suite: str
    backbone: str
    shots: int
    folds: int
    sets: list[SetResult]
    published: dict[str, dict[str, tuple[float, float]]]
    absent: list[str]
    """A sentence for each set that is missing."""

    def __str__(self) -> str:
        names = [found.name for found in self.sets]
        ours = [_cell(100 * found.accuracy.value, 100 * found.deviation) for found in self.sets]
        ends = [f"{100 * found.accuracy.low:.1f} to {100 * found.accuracy.high:.1f}" for found in self.sets]
        lines = [("", *names), (f"this: {self.backbone}", *ours), ("  95 % interval of the mean", *ends)]
        for model, figures in self.published.items():
            cells = [_cell(*figures[name]) if name in figures else "" for name in names]
            lines.append((f"published: {model}", *cells))
        head = f"{self.suite}: {self.shots}-shot micro accuracy in percent"
        head += f", mean ± population deviation over {self.folds} folds."
        return "\n".join([head, aligned(lines), *self.absent])


def suites() -> list[str]:
    """The names of the suites that come with Umbel."""
    folder = importlib.resources.files("umbel") / "suites"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_suite(name: str) -> Suite:
    """A suite that comes with Umbel.

    Raises:
        UserError: there is none of that name.
    """
    if name not in suites():
        raise UserError(f"there is no suite '{name}'; there are: {', '.join(suites())}.")
    told: dict[str, Any] = yaml.safe_load((importlib.resources.files("umbel") / "suites" / f"{name}.yaml").read_text())
    published = {
        model: {key: (row[0], row[1]) for key, row in rows.items()} for model, rows in told["published"].items()
    }
    return Suite(
        name=name,
        shots=told["shots"],
        folds=told["folds"],
        source=told["source"],
        sets=tuple(told["sets"]),
        published=published,
    )


def run_suite(
    name: str, folder: Path, backbone: str, *, device: str, batch: int = 256, workers: int = -1, seed: int = 0
) -> SuiteResult:
    """Measure a backbone on the sets of a suite whose shards lie in FOLDER/SET.

    Raises:
        UserError: no such suite or backbone, or none of the sets is there.
    """
    suite = read_suite(name)
    there = [one for one in suite.sets if find_shards(str(folder / one))]
    absent = [
        f"{one} is not in {folder}: it comes from {suite.source}: "
        f"`umbel shards make meta-album PATH/{one}_Mini --out {folder / one}`."
        for one in suite.sets
        if one not in there
    ]
    if not there:
        raise UserError(" ".join(absent))
    reading = load_to_read(backbone, ReadConfig(protocol="paper"))
    processes = int(choose_workers(workers, 1).value)
    found = []
    for one in there:
        shards = open_shards(str(folder / one))
        say(f"{one}: {len(shards)} photographs of {len(shards.classes)} classes.")
        made = embed(reading, shards, device=device, batch=batch, workers=processes)
        labeled = made.label >= 0
        try:
            accuracies = nearest_centroid(
                made.features[labeled], made.label[labeled], shots=suite.shots, draws=suite.folds, seed=seed
            )
        except ValueError as error:
            raise UserError(f"{one} cannot be probed: {error}.") from error
        found.append(
            SetResult(
                name=one,
                photographs=int(labeled.sum()),
                classes=len(np.unique(made.label[labeled])),
                accuracies=accuracies.tolist(),
                accuracy=over_draws(accuracies),
                deviation=float(accuracies.std()),
            )
        )
    return SuiteResult(
        suite=name,
        backbone=backbone,
        shots=suite.shots,
        folds=suite.folds,
        sets=found,
        published={model: dict(rows) for model, rows in suite.published.items()},
        absent=absent,
    )


def _cell(mean: float, deviation: float) -> str:
    return f"{mean:.1f} ± {deviation:.1f}"
