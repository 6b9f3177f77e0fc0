"""A task: one umbel command of several that belong together, and in which state it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from umbel.run import UmbelError

State = Literal["pending", "running", "done", "failed", "canceled", "interrupted"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One command and what it waits for."""

    name: str
    words: tuple[str, ...]
    """Behind `umbel`."""
    result: Path
    """What is there when it is done."""
    log: Path
    """The file that takes what it says."""
    folder: Path
    """Its folder: where a launcher writes down its job."""
    needs: tuple[str, ...] = ()
    """Tasks that must be done before."""


class TaskFailed(UmbelError):
    """A task failed; the command that ran it ends with the same exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def dependents(tasks: Iterable[Task], name: str) -> list[str]:
    """The tasks that need a task, directly or through others, in the order given (needs stand before dependents)."""
    found = {name}
    for task in tasks:
        if found & set(task.needs):
            found.add(task.name)
    return [task.name for task in tasks if task.name in found and task.name != name]


def state_in_words(row: Mapping[str, Any]) -> str:
    """A row's state, and why; without a full stop."""
    return f"{row['state']}: {row['why'].rstrip('.')}" if row.get("why") else str(row["state"])
