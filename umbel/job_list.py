"""The runs below folders: found by their files, their states by the lock, the records of tasks, and SLURM."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel.launch.job_state import JobState, states
from umbel.run import UserError, read_json
from umbel.run_progress import Progress, is_run, read_progress
from umbel.task_record import LOCK, is_held, read_tasks
from umbel.tasks_slurm import settle

RECORDS = ("pipeline.json", "sweep.json")
SKIPPED = {"checkpoints", "shards", "embeddings", "ranks", "launch", "logs"}
"""Folders of many files in which no run lies."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of `umbel jobs`."""

    name: str
    """The run's folder; for a step that has none of its own, its pipeline's, and the step behind a colon."""
    state: str
    """running, pending, ended, interrupted, failed or canceled; unknown where neither files nor SLURM tell."""
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
    records: list[tuple[Path, list[dict[str, Any]]]] = []
    runs: list[tuple[Path, dict[str, Any] | None]] = []
    for folder in _walk(folders):
        records += [(folder, read_tasks(folder / name)) for name in RECORDS if (folder / name).is_file()]
        sent = last_sent(folder / "launch")
        if is_run(folder) or sent is not None:
            runs.append((folder, sent))
    # A step's own folder, and the jobs of an array, are told by the record that they stand in.
    told = {Path(row["folder"]).resolve() for _, rows in records for row in rows}
    own = {folder.resolve() for folder, _ in records}
    runs = [(folder, sent) for folder, sent in runs if folder.resolve() not in told | own]
    slurm, silent = _ask_slurm(
        [str(row["job"]) for _, rows in records for row in rows if row.get("job") and row["state"] != "done"]
        + [str(sent["id"]) for _, sent in runs if sent]
    )
    found: list[Listed] = []
    for folder, rows in records:
        by_name = {str(row["name"]): row for row in rows}
        alive = is_held(folder / LOCK)
        for row in rows:
            if row.get("job") in slurm:
                places = (Path(row["folder"]) / "launch", folder / "launch")
                row |= settle(row, slurm[row["job"]], by_name, places)
            found.append(_of_task(folder, row, alive=alive or bool(row.get("job"))))
    for folder, sent in runs:
        job = str(sent["id"]) if sent else None
        state = slurm.get(job) if job else None
        found.append(_of_run(folder, sent, state, silent if job else None))
    return found


def last_sent(launch: Path) -> dict[str, Any] | None:
    """The record of the last job that was sent from a folder; None where none was."""
    files = sorted(launch.glob("job-*.json"), key=lambda file: file.stat().st_mtime_ns)
    return read_json(files[-1], "the job's record") if files else None


def _ask_slurm(ids: Sequence[str]) -> tuple[dict[str, JobState], str | None]:
    """What SLURM says of jobs; nothing, and why, where it cannot be asked."""
    try:
        return states(ids), None
    except UserError as error:
        return {}, str(error)


def _of_run(folder: Path, sent: dict[str, Any] | None, told: JobState | None, silent: str | None) -> Listed:
    """A run or launched command that no record of tasks tells of.

    Args:
        sent: its last job's record.
        told: what SLURM says of it.
        silent: why SLURM says nothing.
    """
    progress = read_progress(folder) if is_run(folder) else None
    job = str(sent["id"]) if sent else None
    name = str(folder) if progress or not sent else f"{folder}: {sent['name']}"
    if job is not None and told is not None and not (progress and progress.ended):
        settled = settle({"job": job}, told, {}, (folder / "launch",))
        state = "ended" if settled["state"] == "done" else settled["state"]
        return _listed(name, state, settled["why"], progress, job)
    if progress is None:
        return _listed(name, "unknown", silent, None, job)
    why = "three steps in a row were not finite" if progress.diverged else silent
    return _listed(name, _state(progress), why, progress, job)


def _state(progress: Progress) -> str:
    if progress.locked:
        return "running"
    if progress.ended:
        return "ended"
    return "failed" if progress.diverged else "interrupted"


def _of_task(folder: Path, row: dict[str, Any], *, alive: bool) -> Listed:
    """A step of a pipeline or a run of a sweep."""
    place = Path(row["folder"])
    progress = read_progress(place) if is_run(place) else None
    state, why = str(row["state"]), row.get("why")
    if state == "done":
        state = "ended"
    elif state == "running" and not alive and not (progress and progress.locked):
        # Killed with the command that ran it, unless it outlived that and came to its end.
        state = "ended" if progress and progress.ended else "interrupted"
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
