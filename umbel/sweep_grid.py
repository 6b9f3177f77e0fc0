"""The runs of a sweep: the product of the values given for keys of a recipe, and of seeds, checked as a whole."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel import config as recipes
from umbel.config_words import as_words
from umbel.run import UserError
from umbel.ssl.distillation.config import DistillConfig
from umbel.ssl.pretrain_config import PretrainConfig
from umbel.sweep_axes import read_axes
from umbel.sweep_recipe import Command, read_sweep_recipe
from umbel.task import Task


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a sweep."""

    name: str
    """Of its values; the name of its folder."""
    values: dict[str, Any]
    """By dotted key."""
    seed: int | None
    """One of --seeds; None where none are given."""
    config: PretrainConfig | DistillConfig

    def group(self) -> str:
        """The name that runs have in common that differ in the seed alone."""
        return self.name if self.seed is None else self.name.removesuffix(seed_name(self.seed)).rstrip(",")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a sweep is asked for."""

    recipe: str
    data: str
    out: Path
    over: tuple[str, ...]
    """KEY=a,b,c each."""
    seeds: tuple[int, ...]
    device: str
    probe: str | None
    teacher: str | None = None
    """Of a recipe of distillation."""

    @property
    def command(self) -> Command:
        """What each run is a run of."""
        return read_sweep_recipe(self.recipe)[0]


def read_grid(grid: Grid) -> list[Run]:
    """The runs, in the order of the values given; seeds vary fastest.

    Raises:
        UserError: an unknown key, a value of a wrong type, one that is given twice, or values that do not go together.
    """
    first = resolved_recipe(grid)
    axes = read_axes(grid.recipe, grid.over)
    keys = [key for key, _ in axes]
    if not keys and not grid.seeds:
        raise UserError("a sweep needs something to vary: --over KEY=a,b,c, or --seeds 0,1,2.")
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--over {key} is given twice: list all its values in one.")
        if key == "seed" and grid.seeds:
            raise UserError("--over seed and --seeds are one thing: give --seeds, and its spread is told.")
    seeds: Sequence[int | None] = grid.seeds or (None,)
    runs = []
    for chosen, seed in itertools.product(itertools.product(*(values for _, values in axes)), seeds):
        texts = [f"{short_name(key, keys)}={safe(text)}" for key, (text, _) in zip(keys, chosen, strict=True)]
        texts += [seed_name(seed)] if seed is not None else []
        name = ",".join(texts)
        given = {key: value for key, (_, value) in zip(keys, chosen, strict=True)}
        # All of them at once: values may be possible together alone.
        config = recipes.from_values(first, _nested(given), "--over")
        config = dataclasses.replace(config, out=grid.out / name, seed=config.seed if seed is None else seed)
        values = {key: _value(config, key) for key in keys}
        runs.append(Run(name=name, values=values, seed=seed, config=config))
    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two runs would be called {twice}: give every value and seed once.")
    for place, run in enumerate(runs):
        same = next((o for o in runs[:place] if dataclasses.replace(o.config, out=run.config.out) == run.config), None)
        if same is not None:
            raise UserError(f"{same.name} and {run.name} would be the same run: give every value once.")
    return runs


def resolved_recipe(grid: Grid) -> PretrainConfig | DistillConfig:
    """The recipe's configuration, before any value is changed; its own `recipe` is the name given.

    Raises:
        UserError: no such recipe, or what its command needs is not given.
    """
    resolved = _plain(grid)
    own: dict[str, Any] = {"data": grid.data, "out": grid.out, "recipe": grid.recipe, "device": grid.device}
    if isinstance(resolved, DistillConfig):
        if grid.probe is not None:
            raise UserError("--probe is for pretraining: a distillation is probed at its end on the labels of --data.")
        if not resolved.teacher and not any(key == "teacher" for key, _ in read_axes(grid.recipe, grid.over)):
            raise UserError(f"recipe {grid.recipe} distills: say from which backbone, --teacher BACKBONE.")
    else:
        if grid.teacher is not None:
            raise UserError(f"--teacher is for recipes of umbel distill, and {grid.recipe} is one of umbel pretrain.")
        probe = resolved.probe if grid.probe is None else dataclasses.replace(resolved.probe, data=grid.probe)
        own["probe"] = probe
    return dataclasses.replace(resolved, force=False, **own)


def _plain(grid: Grid) -> PretrainConfig | DistillConfig:
    """What the command itself would make of the recipe."""
    command, values, _ = read_sweep_recipe(grid.recipe)
    where = f"recipe {grid.recipe}"
    if command == "pretrain":
        return recipes.from_values(PretrainConfig(data=grid.data, out=grid.out), values, where)
    begun = DistillConfig(teacher="", data=grid.data, out=grid.out)
    resolved = recipes.from_values(begun, values, where)
    return resolved if grid.teacher is None else dataclasses.replace(resolved, teacher=grid.teacher)


def tasks(runs: Sequence[Run], grid: Grid) -> list[Task]:
    """A command for each run.

    Raises:
        UserError: a value that no flag can hold.
    """
    begun = _plain(grid)
    # As without --recipe, so that it is among the words.
    no_recipe: Any = {"recipe": "auto" if grid.command == "pretrain" else None}
    plain = dataclasses.replace(begun, **no_recipe)
    return [
        Task(
            name=run.name,
            words=(grid.command, *as_words(run.config, plain)),
            result=run.config.out / "checkpoints",
            log=grid.out / "logs" / f"{run.name}.txt",
            folder=run.config.out,
        )
        for run in runs
    ]


def short_name(key: str, keys: Sequence[str]) -> str:
    """The last word of a key; the whole of it, where another key ends alike."""
    last = key.rpartition(".")[2]
    return key if sum(other.rpartition(".")[2] == last for other in keys) > 1 else last


def seed_name(seed: int) -> str:
    """A seed's part of a run's name."""
    return f"seed={seed}"


def safe(text: str) -> str:
    """A value as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-") or "none"


def _nested(given: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as a recipe has them."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        *rooms, last = key.split(".")
        inner = found
        for room in rooms:
            inner = inner.setdefault(room, {})
        inner[last] = value
    return found


def _value(config: Any, key: str) -> Any:
    for word in key.split("."):
        config = getattr(config, word)
    return recipes.to_values(config)
