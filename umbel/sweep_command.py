"""`umbel sweep RECIPE --over KEY=a,b,c --data DATA --out DIR`: a training run for each combination of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from umbel.data.index import find_shards
from umbel.launch.launch_config import LaunchConfig
from umbel.machine import DeviceChoice
from umbel.run import EXIT_TRAINING_FAILED, UserError, say
from umbel.sweep_distill import lines as student_lines
from umbel.sweep_distill import students, write_students
from umbel.sweep_grid import Grid, Run, read_grid, tasks
from umbel.sweep_recipe import read_sweep_recipe
from umbel.sweep_results import lines, read_rows, seed_table, write_results
from umbel.task import Task, TaskFailed
from umbel.task_launch import HERE, list_commands, with_launch
from umbel.task_record import TaskRecord
from umbel.tasks_here import run_here
from umbel.tasks_slurm import follow, refuse_sent, send_array
from umbel.text_table import aligned

RECORD = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Train once for each combination of values; the same command goes on where it ended, with more values too."""

    recipe: Annotated[str, tyro.conf.Positional]
    """A recipe of `umbel pretrain` or `umbel distill`: a name or a YAML file; it may list values itself (over)."""
    over: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=a,b,c: a key of the recipe and its values, such as optim.learning_rate=1e-4,3e-4; every combination of
    several keys is run."""
    data: str
    """Shards to train on."""
    out: Path
    """Folder for the runs, one folder each, and results.json and results.md."""
    seeds: str = ""
    """Seeds, such as 0,1,2: each combination is run with each, and mean and spread are told."""
    probe: str | None = None
    """Labeled shards for few-shot accuracy during each run (probe.data of the recipe)."""
    teacher: str | None = None
    """The backbone that runs of a recipe of umbel distill learn from."""
    device: DeviceChoice = "auto"
    """cpu, cuda, or auto: cuda where it is there."""
    at_once: int = 0
    """Runs at the same time at most (slurm); 0: as many as the cluster takes."""
    wait: bool = False
    """Stay until all runs have ended, and tell as they do (slurm)."""
    dry_run: bool = False
    """List the runs' commands and run nothing."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""

    def __post_init__(self) -> None:
        parts = self.seeds.split(",") if self.seeds else []
        if not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f"seeds must be numbers from 0 with commas between, not {self.seeds}")
        if self.at_once < 0:
            raise ValueError(f"at_once must not be negative, not {self.at_once}")

    @property
    def grid(self) -> Grid:
        """What is asked for, read."""
        return Grid(
            recipe=self.recipe,
            data=self.data,
            out=self.out,
            over=self.over,
            seeds=tuple(int(part) for part in self.seeds.split(",")) if self.seeds else (),
            device=self.device,
            probe=self.probe,
            teacher=self.teacher,
        )


def run(config: SweepConfig, launch: LaunchConfig = HERE) -> None:
    """Run what is not done yet, one after the other or as one array of jobs, and tell what was found.

    Raises:
        UserError: an unknown key, a wrong value, no data, or `out` holds something else.
        TaskFailed: runs failed; the others were run all the same.
        Stopped: a signal came.
    """
    grid = config.grid
    runs = read_grid(grid)
    commands = tasks(runs, grid)
    if not find_shards(config.data):
        raise UserError(
            f"--data {config.data} holds no shards, and each run would make its own: make them once with "
            "`umbel shards make folder`."
        )
    if launch.where == "local":
        commands = [with_launch(task, launch) for task in commands]
    if config.dry_run or launch.dry_run:
        list_commands(commands, launch)
        return
    with open_record(config, commands) as record:

        def after(task: Task) -> None:
            told = lines(tell(config, runs, record))
            say("\n".join((told[0], told[1 + list(record.rows).index(task.name)])))

        say(f"{len(runs)} runs; results: {config.out / 'results.md'}")
        tell(config, runs, record)
        if launch.where == "slurm":
            send_array(commands, record, launch, folder=config.out, name="sweep", at_once=config.at_once or None)
            if config.wait:
                follow(commands, record, after)
        else:
            refuse_sent(commands, record)
            run_here(commands, record, go_on=True, after=after)
        finish(config, runs, record)


def open_record(config: SweepConfig, commands: Sequence[Task]) -> TaskRecord:
    """Begin sweep.json, or go on with it; raises as `TaskRecord.open`."""
    asked: dict[str, Any] = {"command": "sweep", "recipe": config.recipe, "data": config.data}
    command, settings, _ = read_sweep_recipe(config.recipe)
    asked["settings"] = settings
    if command == "distill":
        asked["teacher"] = config.teacher
    # More values and seeds may be asked for; a run's folder knows its own configuration and data.
    return TaskRecord.open(
        config.out / RECORD, commands, asked, ignore=("recipe", "data", "teacher"), data=config.data, force=config.force
    )


def tell(config: SweepConfig, runs: Sequence[Run], record: TaskRecord) -> list[Any]:
    """Write results.json and results.md (of distillations students.png) by what is there now; returns the rows."""
    rows = read_rows(runs, record.rows)
    write_results(config.out, config.recipe, rows, seeds=bool(config.seeds))
    if config.grid.command == "distill":
        write_students(config.out, students(rows))
    return rows


def finish(config: SweepConfig, runs: Sequence[Run], record: TaskRecord) -> None:
    """Print the tables.

    Raises:
        TaskFailed: a run failed.
    """
    rows = tell(config, runs, record)
    say("\n".join(lines(rows)))
    if config.seeds and any(row.state == "done" for row in rows):
        headings, cells = seed_table(rows)
        say("mean over seeds, ± the sample standard deviation:")
        say("\n".join(aligned([headings, *cells], right=(1, 2, 3))))
    if config.grid.command == "distill" and (found := students(rows)):
        say("students with and without their teacher:")
        say("\n".join(student_lines(found)))
    failed = [row.run.name for row in rows if row.state == "failed"]
    if failed:
        raise TaskFailed(
            f"{len(failed)} of {len(rows)} runs failed ({', '.join(failed)}); the same command tries them again.",
            EXIT_TRAINING_FAILED,
        )
