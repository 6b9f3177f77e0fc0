"""`umbel demo`: the whole story in one command, each step of it a command of its own.

shards -> pretraining -> embeddings -> few-shot probe -> hash codes and search -> export -> one HTML report
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from umbel import config as recipes
from umbel.backbones import export
from umbel.data.folder import check_data
from umbel.data.index import find_shards
from umbel.data.make import MakeFolderConfig, MakeSyntheticConfig, make_folder, make_synthetic
from umbel.evaluation import embed, probe, report
from umbel.evaluation.hashing import encode_command, evaluate_command, fit_command
from umbel.machine import DeviceChoice, choose_device
from umbel.pipeline_steps import Places, first_settings
from umbel.run import UserError, duration, move_aside, read_json, refuse_overlap, say, write_atomic
from umbel.ssl import pretrain
from umbel.ssl.pretrain_config import PretrainConfig
from umbel.ssl.recipe_choice import count_photographs

RECIPES = {"cpu": "demo", "cuda": "demo-gpu"}
# Photographs seen in pretraining, whatever their number: what the demo's time is made of.
PHOTOGRAPHS_SEEN = {"cpu": 36_000, "cuda": 400_000}
TEST_SHARE = 0.2
BITS = 32


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """From photographs (or synthetic plants) to a report: pretraining, few-shot answers, hash codes, export."""

    out: Path
    """Folder for everything that is made."""
    data: str | None = None
    """Photographs in class folders, or labeled shards; synthetic plants by default."""
    recipe: str = "auto"
    """Recipe of the pretraining; auto: demo on a CPU, demo-gpu on a GPU."""
    epochs: float | None = None
    """Passes over the photographs; by default as many as keep the demo short."""
    shots: int = 5
    """Support images of each class."""
    seed: int = 0
    """Seed of everything that is drawn."""
    device: DeviceChoice = "auto"
    """cpu, cuda, or auto: cuda where it is there."""
    force: bool = False
    """Move a folder at --out that holds another demo aside."""

    def __post_init__(self) -> None:
        if self.seed < 0 or self.shots < 1:
            raise ValueError(f"seed must not be negative and shots at least 1, not {self.seed} and {self.shots}")
        if self.epochs is not None and not 0 < self.epochs < 10_000:
            raise ValueError(f"epochs must be positive, not {self.epochs}")

    def check_data(self) -> None:
        """Refuse data that are not there; raises UserError."""
        if self.data is not None:
            check_data(self.data)


def run(config: DemoConfig) -> None:
    """Run the steps that are not done yet and print the report's path last.

    Raises:
        UmbelError: a step's own, see there; or `out` holds something else.
    """
    device = choose_device(config.device).value
    steps = Steps.open(config)
    folder = config.out / "run"
    shards = str(config.out / "shards")
    if config.data is None:
        plants = MakeSyntheticConfig(out=Path(shards), seed=config.seed)
        steps.do("drawing plants", lambda: make_synthetic(plants))
    elif find_shards(config.data):
        shards = config.data
    else:
        photographs = MakeFolderConfig(
            data=Path(config.data), out=Path(shards), test_share=TEST_SHARE, seed=config.seed
        )
        steps.do("making shards", lambda: make_folder(photographs))
    steps.do("pretraining", lambda: pretrain.run(pretraining(config, shards, device)))
    settings = first_settings(Places(run=folder), shards, seed=config.seed, device=config.device)
    steps.do("embedding", lambda: embed.run(settings["embed"]))
    probing = dataclasses.replace(settings["probe"], shots=(config.shots,))
    steps.do("probing", lambda: probe.run(probing))
    fitting = dataclasses.replace(settings["hash_fit"], bits=BITS)
    steps.do("fitting hash codes", lambda: fit_command.run(fitting))

    def search() -> None:
        encode_command.run(settings["hash_encode"])
        evaluate_command.run(settings["hash_evaluate"])

    steps.do("encoding and searching", search)
    steps.do("exporting", lambda: export.run(settings["export"]))
    steps.finish(folder)
    page = report.write_report(folder, data=shards)
    say(f"everything took {duration(steps.seconds())}; the report:\n{page}")


def pretraining(config: DemoConfig, shards: str, device: str) -> PretrainConfig:
    """The pretraining's configuration: the recipe, with as many epochs as the demo has time for."""
    name = RECIPES[device] if config.recipe == "auto" else config.recipe
    begun = PretrainConfig(data=shards, out=config.out / "run", recipe=name, seed=config.seed, device=config.device)
    resolved = recipes.from_values(begun, recipes.read_recipe(name, "pretrain"), f"recipe {name}")
    epochs = config.epochs
    if epochs is None:
        count = count_photographs(shards)
        epochs = round(PHOTOGRAPHS_SEEN[device] / count, 2)
        say(f"recipe {name}, {epochs:g} epochs: some {PHOTOGRAPHS_SEEN[device]:,} photographs seen keep a demo short.")
    batch = min(resolved.train.batch, max(count_photographs(shards) // 2, 1))
    if batch < resolved.train.batch:
        say(f"batch {batch}: so few photographs.")
    train = dataclasses.replace(resolved.train, epochs=epochs, batch=batch)
    # A run's own configuration is a recipe too, and names the folder of that run.
    own = {name: getattr(begun, name) for name in ("data", "out", "recipe", "seed", "device", "force")}
    return dataclasses.replace(resolved, train=train, **own)


class Steps:
    """What is done and what it cost, kept in steps.json so that an interrupted demo goes on where it was."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, Any]] = []

    @classmethod
    def open(cls, config: DemoConfig) -> Steps:
        """Make `out`, or go on with the same demo in it.

        Raises:
            UserError: it holds something else.
        """
        asked = recipes.to_values(config) | {"format": 1}
        for name in ("out", "force", "device"):
            del asked[name]
        told = config.out / "demo.json"
        there = read_json(told, "the demo's record") if told.is_file() else None
        if there != asked and config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
            found = "other files" if there is None else recipes.first_difference(there, asked, ())
            if not config.force:
                raise UserError(f"{config.out} holds another demo or {found}: choose another --out, or --force.")
            refuse_overlap(config.data or ".", config.out)
            move_aside(config.out)
        config.out.mkdir(parents=True, exist_ok=True)
        write_atomic(told, json.dumps(asked, indent=1) + "\n")
        steps = cls(config.out / "steps.json")
        if steps.file.is_file():
            steps.rows = read_json(steps.file, "the steps' record")["steps"]
        return steps

    def do(self, name: str, step: Callable[[], object]) -> None:
        """Run a step unless it is done; an interrupted one is told in the sum of its tries."""
        row = next((row for row in self.rows if row["name"] == name), None)
        if row is None:
            row = {"name": name, "seconds": 0.0, "peak_memory_gib": 0.0, "done": False}
            self.rows.append(row)
        if row["done"]:
            say(f"-- {name}: done before.")
            return
        say(f"-- {name}")
        started, before = time.monotonic(), row["seconds"]
        memory = PeakMemory()
        try:
            with memory:
                step()
            row["done"] = True
        finally:
            # Behind the `with`: a step of milliseconds ends before the watch's first look does.
            row["seconds"] = before + time.monotonic() - started
            row["peak_memory_gib"] = max(row["peak_memory_gib"], memory.peak / 2**30)
            self._write(self.file)

    def finish(self, folder: Path) -> None:
        """Put the record where the report reads it."""
        self._write(folder / "steps.json")

    def seconds(self) -> float:
        """What all steps cost together."""
        return float(sum(row["seconds"] for row in self.rows))

    def _write(self, file: Path) -> None:
        write_atomic(file, json.dumps({"format": 1, "steps": self.rows}, indent=1) + "\n")


class PeakMemory:
    """The greatest memory of this process and its children while it is open, looked at five times a second."""

    def __enter__(self) -> PeakMemory:
        self.peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            children: list[psutil.Process] = []
            with contextlib.suppress(psutil.Error, OSError):  # a child may end while it is looked for
                children = process.children(recursive=True)
            self.peak = max(self.peak, sum(map(memory_of, (process, *children))))
            if self._over.wait(0.2):
                return


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process, pages that forked workers share counted in parts where the system tells; 0 if it ended."""
    with contextlib.suppress(psutil.Error, OSError):
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.rss))
    return 0
