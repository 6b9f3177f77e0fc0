"""`umbel pipeline RECIPE --data DATA --out DIR`: from photographs to a report, each step a command of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from umbel.data.index import find_shards
from umbel.launch.launch_config import LaunchConfig
from umbel.machine import DeviceChoice
from umbel.pipeline_recipe import Asked, read_pipeline
from umbel.pipeline_steps import Places
from umbel.run import EXIT_TRAINING_FAILED, duration, refuse_within, say, write_atomic
from umbel.task import Task, TaskFailed, state_in_words
from umbel.task_launch import HERE, list_commands, with_launch
from umbel.task_record import TaskRecord
from umbel.tasks_here import run_here
from umbel.tasks_slurm import follow, refuse_sent, send

RECORD = "pipeline.json"


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Run a recipe of steps: pretrain, embed, probe, hash, export, report; the same command goes on where it ended."""

    recipe: Annotated[str, tyro.conf.Positional]
    """A recipe of steps that comes with Umbel (pipeline/plants, pipeline/folder), or a YAML file."""
    out: Path
    """Folder for everything that is made."""
    data: str | None = None
    """Photographs in class folders, or labeled shards; none where the recipe draws plants."""
    seed: int = 0
    """Seed of every step."""
    device: DeviceChoice = "auto"
    """cpu, cuda, or auto: cuda where it is there."""
    wait: bool = False
    """Stay until all jobs have ended, and tell as they do (slurm)."""
    dry_run: bool = False
    """List the steps' commands and run nothing."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")


def run(config: PipelineConfig, launch: LaunchConfig = HERE) -> None:
    """Run the steps that are not done yet, one after the other, or send them as jobs that depend on one another.

    Raises:
        UserError: a recipe that cannot be run, or `out` holds something else.
        TaskFailed: a step failed; those that need it are canceled.
        Stopped: a signal came.
    """
    tasks = read_pipeline(
        config.recipe, Asked(data=config.data, out=config.out, seed=config.seed, device=config.device)
    )
    if config.data is not None and Path(config.data).is_dir() and not find_shards(config.data):
        refuse_within(config.out, config.data)
    if launch.where == "local":
        tasks = [with_launch(task, launch) for task in tasks]
    if config.dry_run or launch.dry_run:
        list_commands(tasks, launch)
        return
    places = Places(run=config.out / "run")
    with open_record(config, tasks) as record:
        if launch.where == "slurm":
            send(tasks, record, launch)
            if config.wait:
                follow(tasks, record, lambda task: say(f"-- {task.name}: {state_in_words(record.rows[task.name])}"))
                fail_if_any_did(record)
            else:
                say(f"`umbel jobs {config.out}` tells how far they are; the same command sends again what failed.")
            return

        refuse_sent(tasks, record)

        def before(task: Task) -> None:
            if task.name == "report":
                write_costs(places.run / "steps.json", record)

        run_here(tasks, record, go_on=False, before=before)
        seconds = sum(row["seconds"] for row in record.rows.values())
    told = f"; the report:\n{places.report}" if "report" in record.rows else "."
    say(f"everything took {duration(seconds)}{told}")


def fail_if_any_did(record: TaskRecord) -> None:
    """Name what failed and what was canceled for it.

    Raises:
        TaskFailed: a step did not end well.
    """
    bad = {name: row for name, row in record.rows.items() if row["state"] != "done"}
    if bad:
        told = "; ".join(f"{name} {state_in_words(row)}" for name, row in bad.items())
        raise TaskFailed(f"not all steps are done: {told}.", EXIT_TRAINING_FAILED)


def open_record(config: PipelineConfig, tasks: list[Task]) -> TaskRecord:
    """Begin pipeline.json, or go on with it; raises as `TaskRecord.open`."""
    asked: dict[str, Any] = {"command": "pipeline", "recipe": config.recipe}
    # A recipe may be mended for the steps that are not done; those that are stay the same by their commands.
    return TaskRecord.open(config.out / RECORD, tasks, asked, ignore=("recipe",), data=config.data, force=config.force)


def write_costs(file: Path, record: TaskRecord) -> None:
    """What the steps cost, where the report reads it."""
    rows = [
        {"name": name.replace("_", " "), "seconds": row["seconds"], "done": True}
        for name, row in record.rows.items()
        if row["state"] == "done"
    ]
    write_atomic(file, json.dumps({"format": 1, "steps": rows}, indent=1) + "\n")
