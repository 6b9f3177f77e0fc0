"""What every command needs from its surroundings: errors, ranks, atomic writes, progress."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USER_ERROR = 2
EXIT_TRAINING_FAILED = 3
EXIT_REQUEUE = 75
EXIT_INTERRUPTED = 130


class UmbelError(Exception):
    """An ending that the command line reports as one sentence, without a traceback.

    Args:
        everywhere: all ranks end with this sentence; one of them says it.
    """

    exit_code = EXIT_BUG

    def __init__(self, message: str, *, everywhere: bool = False) -> None:
        super().__init__(message)
        self.everywhere = everywhere


class UserError(UmbelError):
    """Something the user can put right; the message says what is wrong and what to do."""

    exit_code = EXIT_USER_ERROR


class TrainingError(UmbelError):
    """Training cannot go on; the message names the cause and the last good checkpoint."""

    exit_code = EXIT_TRAINING_FAILED


class Stopped(UmbelError):
    """A signal asked the command to stop, and everything is saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, everywhere=True)
        self.exit_code = exit_code


def rank() -> int:
    """This process's rank, as launchers tell it; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say(message: str) -> None:
    """Print a line on rank 0, at once (a log that is read while the command runs)."""
    if rank() == 0:
        print(message, flush=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that readers see the old content or the new one, never a part; durable when it returns."""
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def refuse_overlap(data: str | Path, out: Path) -> None:
    """Keep --force from moving what is to be read.

    Raises:
        UserError: `data` lies in `out`.
    """
    if Path(data).resolve().is_relative_to(out.resolve()):
        raise UserError(f"{data} lies in --out {out}, which would be moved aside with it: choose another --out.")


def refuse_within(out: Path, folder: str | Path) -> None:
    """Keep what is written from becoming what is read the next time.

    Raises:
        UserError: `out` is the folder that is read, or lies in it.
    """
    if out.resolve().is_relative_to(Path(folder).resolve()):
        raise UserError(f"--out {out} lies in {folder}, of which all photographs are read: choose another --out.")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it becomes `path`, durable; on failure it is removed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        for file in beside.rglob("*"):
            sync_folder(file) if file.is_dir() else sync_file(file)
        sync_folder(beside)
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(path.parent)


def move_aside(path: Path) -> Path:
    """Rename a folder to the first free `<name>.old-N` and return the new path."""
    path = path.resolve()
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object of ours that carries `format: 1`.

    Raises:
        UserError: not JSON, not Umbel's, or a newer format.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} cannot be read ({error}).") from error
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{what} {path} was not written by Umbel (it carries no format).")
    if content["format"] != 1:
        raise UserError(f"{what} {path} has format {content['format']}; this Umbel reads format 1: upgrade Umbel.")
    return content


class Bar:
    """A progress bar on a terminal, plain lines elsewhere (one every `interval` seconds and one at the end)."""

    def __init__(self, title: str, total: int, *, done: int = 0, interval: float = 10.0) -> None:
        self.title, self.total, self.done, self.interval = title, total, done, interval
        self.first, self.started = done, time.monotonic()
        self.spoken = self.started
        self.note = ""
        self.rich: Progress | None = None
        if rank() == 0 and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.rich = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True)
            )
            self.task = self.rich.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Bar:
        if self.rich is not None:
            self.rich.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.rich is not None:
            self.rich.stop()
        elif rank() == 0 and self.done > self.first and kind is None:
            self._line()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more as done; `note` is shown behind the bar (it stays until the next one)."""
        self.done += count
        self.note = self.note if note is None else note
        if self.rich is not None:
            self.rich.update(self.task, completed=self.done, note=self.note)
        elif rank() == 0 and time.monotonic() - self.spoken >= self.interval:
            self._line()

    def _line(self) -> None:
        self.spoken = time.monotonic()
        rate = (self.done - self.first) / max(self.spoken - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        eta = f", {duration(left)} left" if self.done < self.total else ""
        note = f"  {self.note}" if self.note else ""
        print(f"{self.title}: {self.done}/{self.total}{eta}{note}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3.4 h, 2.1 days."""
    for limit, unit, name in ((100.0, 1.0, "s"), (5400.0, 60.0, "min"), (172800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if unit < 3600 else 1}f} {name}"
    return f"{seconds / 86400:.1f} days"
