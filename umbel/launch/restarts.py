"""What is known of a job's starts and ends, in a file of its own: why it was started again, and what that brought."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Restarts:
    """The rows of `restarts-<job>.jsonl`, written by the batch script alone, of which one runs at a time."""

    def __init__(self, folder: Path, job: str) -> None:
        self.file = folder / f"restarts-{job}.jsonl"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All starts and ends, the first one first."""
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def note(self, event: str, **facts: Any) -> None:
        """Add a row."""
        row = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts}
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def begin(
        self, restart: int, out: Path, nodes: str, requeues: int, why: Callable[[], str] = lambda: WITHOUT_A_WORD
    ) -> str | None:
        """Note a start and return why it is one more, or None for the first.

        Args:
            restart: SLURM's count; 0 for the first start.
            out: what the command writes, which shows its progress.
            requeues: starts in a row that may bring nothing new after a first such one.
            why: is asked where the last start could note no end.

        Raises:
            NoProgressError: the last starts brought nothing new.
        """
        if restart == 0:
            self.file.unlink(missing_ok=True)  # of a cluster that began to count anew
        rows, now = self.rows, progress(out)
        ends = [row["reason"] for row in rows[-1:] if row["event"] == "end"]
        reason = None if restart == 0 else next(iter(ends), None) or why()
        in_vain = 0
        for row in reversed([row for row in rows if row["event"] == "start"]):
            if row["progress"] != now:
                break
            in_vain += 1
        if in_vain > requeues:
            raise NoProgressError(
                f"{in_vain} starts in a row ended without anything new ({reason}): put that right and submit again, "
                "or allow more (--launch.requeues)."
            )
        self.note("start", restart=restart, progress=now, nodes=nodes, reason=reason)
        return reason


WITHOUT_A_WORD = "SLURM ended it at once and does not say why"


class NoProgressError(Exception):
    """Starting again does not help."""


def progress(out: Path) -> int:
    """How far the work in an output folder is: the newest checkpoint's step, or the number of files."""
    checkpoints = [*out.glob("checkpoints/step-*"), *out.glob("*/checkpoints/step-*")]
    steps = [int(path.name.removeprefix("step-")) for path in checkpoints if path.name[5:].isdigit()]
    if steps:
        return max(steps)
    return sum(1 for path in out.rglob("*") if path.is_file() and "launch" not in path.relative_to(out).parts)
