"""The runs below folders: found by their files, their states by the lock, the records of tasks, and SLURM."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel.run_progress import Progress, is_run, read_progress
from umbel.task_record import LOCK, is_held, read_tasks

RECORDS = ("pipeline.json", "sweep.json")
SKIPPED = {"checkpoints", "shards", "embeddings", "ranks", "code"}
"""Folders of many files in which no run lies."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of `umbel jobs`."""

    name: str
    """The run's folder; for a step that has none of its own, its pipeline's, and the step behind a colon."""
    state: str
    """running, pending, ended, interrupted, failed or canceled."""
    why: str | None
    """Why it waits, failed or was canceled."""
    step: int | None
    steps: int | None
    left: float | None
    """Seconds of training to go."""
    loss: float | None
    job: str | None
    """SLURM's id."""


def find_jobs(folders: Sequence[Path]) -> list[Listed]:
    """Every run, step and launched command below the folders.

    Raises:
        UserError: a record that cannot be read.
    """
    found: list[Listed] = []
    told: set[Path] = set()
    for folder in _walk(folders):
        for record in RECORDS:
            if (folder / record).is_file():
                alive = is_held(folder / LOCK)
                for row in read_tasks(folder / record):
                    place = Path(row["folder"])
                    if is_run(place):
                        told.add(place.resolve())
                    found.append(_of_task(folder, row, place, alive=alive))
        if is_run(folder) and folder.resolve() not in told:
            found.append(_of_run(folder))
    return found


def _of_run(folder: Path) -> Listed:
    """A run that nothing but its own folder tells of."""
    progress = read_progress(folder)
    return _listed(
        str(folder), _state(progress), "three steps in a row were not finite" if progress.diverged else None, progress
    )


def _state(progress: Progress) -> str:
    if progress.locked:
        return "running"
    if progress.ended:
        return "ended"
    return "failed" if progress.diverged else "interrupted"


def _of_task(folder: Path, row: dict[str, Any], place: Path, *, alive: bool) -> Listed:
    """A step of a pipeline or a run of a sweep."""
    progress = read_progress(place) if is_run(place) else None
    state, why = str(row["state"]), row.get("why")
    if state == "done":
        state = "ended"
    elif state == "running" and not alive and not (progress and progress.locked):
        state = "interrupted"  # killed with the command that ran it
    name = str(place) if progress else f"{folder}: {row['name']}"
    return _listed(name, state, why, progress, job=row.get("job"))


def _listed(name: str, state: str, why: str | None, progress: Progress | None, job: str | None = None) -> Listed:
    if progress is None:
        return Listed(name=name, state=state, why=why, step=None, steps=None, left=None, loss=None, job=job)
    return Listed(
        name=name,
        state=state,
        why=why,
        step=progress.step,
        steps=progress.steps,
        left=progress.left,
        loss=progress.loss,
        job=job,
    )


def _walk(folders: Sequence[Path]) -> Iterator[Path]:
    """Every folder below, once, in the order of names; those that hold many files of other kinds are left out."""
    seen: set[Path] = set()
    for root in folders:
        for path, names, _ in os.walk(root):
            names[:] = sorted(name for name in names if name not in SKIPPED and not name.startswith("."))
            if (resolved := Path(path).resolve()) not in seen:
                seen.add(resolved)
                yield Path(path)
