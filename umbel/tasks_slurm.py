"""Tasks as SLURM jobs: sent once, in dependence of one another, and what SLURM says of them put into their record."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from umbel.launch.job_state import UNKNOWN, JobState, states
from umbel.launch.launch_config import LaunchConfig
from umbel.launch.slurm import submit, submit_array
from umbel.launch.waiting import NEVER, why_it_waits
from umbel.run import UserError, say
from umbel.task import Task
from umbel.task_record import TaskRecord

LIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED")
SHARING = ("pretrain", "embed")
"""Commands that share their work among processes; the others get one."""
LOOK = 3.0
"""Seconds from look to look at jobs that are waited for."""


def send(tasks: Sequence[Task], record: TaskRecord, launch: LaunchConfig) -> None:
    """Send every task that is neither done nor on its way, each behind those that it needs.

    Raises:
        UserError: no SLURM here, or it refuses a job.
    """
    refresh(tasks, record)
    for task in tasks:
        if is_settled(task, record):
            say(f"-- {task.name}: {record.rows[task.name]['state']} already.")
            continue
        before = [record.rows[name]["job"] for name in task.needs if record.rows[name]["state"] != "done"]
        own = launch if task.words[0] in SHARING else one_process(launch)
        job = submit(task.words, own, folder=task.folder, name=task.name, after=before)
        record.update(task.name, state="pending", why=None, exit_code=None, began=time.time(), job=job)
        say(f"-- {task.name}: job {job}" + (f", behind {', '.join(before)}." if before else "."))


def send_array(
    tasks: Sequence[Task], record: TaskRecord, launch: LaunchConfig, *, folder: Path, name: str, at_once: int | None
) -> None:
    """Send every task that is neither done nor on its way, all in one array.

    Raises:
        UserError: as `send`.
    """
    refresh(tasks, record)
    again = [task for task in tasks if not is_settled(task, record)]
    if not again:
        return
    jobs = submit_array([task.words for task in again], launch, folder=folder, name=name, at_once=at_once)
    for task, job in zip(again, jobs, strict=True):
        record.rows[task.name] |= {"state": "pending", "why": None, "exit_code": None, "began": time.time(), "job": job}
    record.write()
    limit = f", {at_once} at once" if at_once else ""
    say(f"{len(again)} runs as job {jobs[0].partition('_')[0]}{limit}.")


def refresh(tasks: Sequence[Task], record: TaskRecord) -> None:
    """Put what SLURM says of the jobs into the record.

    Raises:
        UserError: SLURM does not answer.
    """
    for task in tasks:
        job = newest_job(task, record.file.parent)
        if job is not None:
            record.rows[task.name]["job"] = job
    asked = [row["job"] for row in record.rows.values() if row.get("job") and row["state"] != "done"]
    told = states(asked)
    for task in tasks:
        row = record.rows[task.name]
        if row.get("job") in told:
            places = (task.folder / "launch", record.file.parent / "launch")
            row |= settle(row, told[row["job"]], record.rows, places)
    record.write()


def settle(
    row: Mapping[str, Any], told: JobState, rows: Mapping[str, Mapping[str, Any]], places: Sequence[Path]
) -> dict[str, Any]:
    """State, reason and exit code of a task, by what SLURM says of its job.

    Args:
        rows: of all tasks; those that it needs are settled already.
        places: folders in which the job's logs may lie.
    """
    facts: dict[str, Any] = {"exit_code": told.exit_code, "why": None}
    if told.state == "PENDING" and told.reason not in NEVER:
        return facts | {"state": "pending", "why": why_it_waits(told.reason)}
    if told.state in LIVE and told.state != "PENDING":
        return facts | {"state": "running"}
    if told.state == "COMPLETED":
        return facts | {"state": "done"}
    if told.state == UNKNOWN:
        return facts | {"state": "interrupted", "why": f"SLURM knows no job {row['job']} any more"}
    if told.state in ("CANCELLED", "PENDING"):
        guilty = [name for name in row.get("needs", ()) if rows[name]["state"] in ("failed", "canceled")]
        why = f"{guilty[0]} {'failed' if rows[guilty[0]]['state'] == 'failed' else 'was canceled'}" if guilty else None
        if why is None:
            why = why_it_waits(told.reason) if told.state == "PENDING" else "by scancel or an administrator"
        return facts | {"state": "canceled", "why": why}
    return facts | {"state": "failed", "why": said_last(str(row["job"]), places) or _in_words(told)}


def refuse_sent(tasks: Sequence[Task], record: TaskRecord) -> None:
    """Refuse to run here what still waits or runs as a job.

    Raises:
        UserError: there is such a job, or SLURM does not answer for one.
    """
    if not any(row.get("job") and row["state"] in ("pending", "running") for row in record.rows.values()):
        return
    refresh(tasks, record)
    live = [row for row in record.rows.values() if row.get("job") and row["state"] in ("pending", "running")]
    if live:
        names, jobs = (", ".join(row[key] for row in live) for key in ("name", "job"))
        raise UserError(f"{names} still wait or run as SLURM jobs ({jobs}): wait for them, or end them by scancel.")


def is_settled(task: Task, record: TaskRecord) -> bool:
    """Whether a task is done, or its job waits or runs."""
    row = record.rows[task.name]
    if row["state"] == "done":
        return task.result.exists()
    return row["state"] in ("pending", "running") and row.get("job") is not None


def newest_job(task: Task, folder: Path) -> str | None:
    """The last job that was sent for a task, by what every submission leaves in the task's folder or the common one.

    A command that was killed between sending and writing its record must not send twice.
    """
    found = []
    for place in (task.folder / "launch", folder / "launch"):
        for file in place.glob("job-*.json"):
            told = json.loads(file.read_text())
            if told["command"] == list(task.words):
                found.append((file.stat().st_mtime_ns, str(told["id"])))
    return max(found)[1] if found else None


def said_last(job: str, places: Sequence[Path]) -> str | None:
    """A job's own sentence in its error log."""
    files = [file for place in places for file in sorted(place.glob(f"{job}_*_log.err"))]
    lines = [line for file in files for line in file.read_text(errors="replace").splitlines()]
    said = [line.removeprefix("umbel: ") for line in lines if line.startswith("umbel: ")]
    return said[-1] if said else None


def follow(tasks: Sequence[Task], record: TaskRecord, changed: Callable[[Task], None]) -> None:
    """Wait until no job waits or runs; `changed` is called with every task whose state is another one.

    Raises:
        UserError: SLURM does not answer.
    """
    before = record.states()
    while True:
        refresh(tasks, record)
        now = record.states()
        for task in tasks:
            if now[task.name] != before[task.name]:
                changed(task)
        before = now
        if not any(now[task.name] in ("pending", "running") for task in tasks):
            return
        time.sleep(LOOK)


def one_process(launch: LaunchConfig) -> LaunchConfig:
    """The same place with one process, and one GPU where there are some."""
    return dataclasses.replace(launch, nodes=1, processes=None, gpus=1 if launch.gpus else None)


def _in_words(told: JobState) -> str:
    code = "" if told.exit_code is None else f", exit code {told.exit_code}"
    return f"SLURM says {told.state}{f' ({told.reason})' if told.reason else ''}{code}"
