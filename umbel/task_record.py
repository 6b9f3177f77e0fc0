"""What became of a folder's tasks (pipeline.json, sweep.json): read again by the same command, which goes on."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from umbel.config import first_difference
from umbel.run import UserError, move_aside, read_json, refuse_overlap, write_atomic
from umbel.task import Task

FORMAT = 1
LOCK = ".tasks-lock"


class TaskRecord:
    """The rows of a folder's tasks, written after every change; one process at a time holds it.

    {"format": 1, "command": "pipeline", "asked": {...},
     "tasks": [{"name", "words", "needs", "state", "why", "began": seconds since 1970, "seconds": over all tries,
                "exit_code", "job", "log", "folder"}]}
    """

    def __init__(self, file: Path, asked: Mapping[str, Any]) -> None:
        self.file, self.asked = file, dict(asked)
        self.rows: dict[str, dict[str, Any]] = {}
        self._held: filelock.BaseFileLock | None = None

    def __enter__(self) -> TaskRecord:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.release()

    @classmethod
    def open(
        cls,
        file: Path,
        tasks: Iterable[Task],
        asked: Mapping[str, Any],
        *,
        ignore: Sequence[str],
        data: str | None,
        force: bool,
    ) -> TaskRecord:
        """Begin a record, or go on with the one that was begun with the same settings.

        Args:
            asked: `command`, and what else must be the same; so must the words of what is done.
            ignore: names of settings that may differ.
            data: what is read, which must not be moved aside.
            force: move a folder that holds something else aside.

        Raises:
            UserError: the folder holds something else, or another process works in it.
        """
        folder = file.parent
        tasks = list(tasks)
        difference = _difference(file, tasks, asked, ignore)
        if difference and not force:
            raise UserError(f"{folder} {difference}: choose another --out, or --force to move it aside.")
        if difference:
            refuse_overlap(data or ".", folder)
            if folder.is_dir() and (folder / LOCK).exists():
                _lock(folder).release()
            move_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record = cls(file, asked)
        record._held = _lock(folder)
        there = {row["name"]: row for row in read_tasks(file)} if file.is_file() else {}
        for task in tasks:
            row = there.get(task.name, {"state": "pending", "why": None, "seconds": 0.0})
            told = {"name": task.name, "words": list(task.words), "needs": list(task.needs), "log": str(task.log)}
            record.rows[task.name] = row | told | {"folder": str(task.folder)}
        record.write()
        return record

    def update(self, name: str, **facts: Any) -> None:
        """Change a task's row, and the file."""
        self.rows[name] |= facts
        self.write()

    def begin(self, name: str, **facts: Any) -> None:
        """A task runs from now on."""
        self.update(name, state="running", why=None, exit_code=None, began=time.time(), **facts)

    def states(self) -> dict[str, str]:
        """The state of each task."""
        return {name: row["state"] for name, row in self.rows.items()}

    def write(self) -> None:
        """Write the file."""
        told = {"format": FORMAT, **self.asked, "tasks": list(self.rows.values())}
        write_atomic(self.file, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def read_tasks(file: Path) -> list[dict[str, Any]]:
    """The rows of a record.

    Raises:
        UserError: it cannot be read, or is none.
    """
    rows = read_json(file, "the tasks' record").get("tasks")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and {"name", "state"} <= set(row) for row in rows):
        raise UserError(f"the tasks' record {file} must have a list 'tasks' with name and state in every row.")
    return rows


def _difference(file: Path, tasks: Sequence[Task], asked: Mapping[str, Any], ignore: Sequence[str]) -> str | None:
    """Why the folder of `file` cannot be gone on with, or None."""
    folder = file.parent
    if not folder.exists():
        return None
    if not folder.is_dir():
        return "is a file"
    if not file.is_file():
        # A process that died before its first record leaves the lock alone behind.
        return "holds other files" if any(path.name != LOCK for path in folder.iterdir()) else None
    there = {
        key: value for key, value in read_json(file, "the tasks' record").items() if key not in ("format", "tasks")
    }
    found = first_difference(there, dict(asked), ignore)
    if found:
        return f"holds another {asked['command']} ({found})"
    rows = {row["name"]: row for row in read_tasks(file)}
    for task in tasks:
        # What is not done yet may be mended.
        if task.name in rows and rows[task.name]["state"] == "done":
            before, now = list(rows[task.name].get("words", ())), list(task.words)
            if before != now:
                told = f"{_only(before, now)} there, {_only(now, before)} now"
                return f"holds another {asked['command']} ({task.name} was done by another command: {told})"
    return None


def _only(words: Sequence[str], others: Sequence[str]) -> str:
    """The words that stand in one command alone, each flag before its value."""
    found = [
        f"{words[place - 1]} {word}" if place and words[place - 1].startswith("--") else word
        for place, word in enumerate(words)
        if word not in others
    ]
    return " ".join(found) or "nothing"


def _lock(folder: Path) -> filelock.BaseFileLock:
    """Keep other processes out.

    Raises:
        UserError: one works in the folder.
    """
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(f"{folder} is in use by another process: wait for it, or choose another --out.") from error
    return lock


def is_held(lock: Path) -> bool:
    """Whether a process works in the folder of a lock; asked without taking it from one that begins."""
    if not lock.is_file():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
