"""Running tasks on this machine, one after the other, each as a process of its own.

A process for each: what the kernel kills for its memory takes no other task with it, memory is given back between
tasks, and the words are the very ones that a cluster's job gets. It costs some seconds a task to import torch again.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from umbel.run import EXIT_INTERRUPTED, EXIT_REQUEUE, EXIT_TRAINING_FAILED, Stopped, duration, say
from umbel.task import Task, TaskFailed, dependents, state_in_words
from umbel.task_record import TaskRecord

STOPPED = {EXIT_INTERRUPTED, EXIT_REQUEUE, -signal.SIGINT, -signal.SIGTERM}
LOOK = 0.2
"""Seconds from look to look at what a task says."""


def run_here(
    tasks: Sequence[Task],
    record: TaskRecord,
    *,
    go_on: bool,
    before: Callable[[Task], None] = lambda _: None,
    after: Callable[[Task], None] = lambda _: None,
) -> None:
    """Run the tasks that are not done yet, in the order given.

    Args:
        go_on: whether tasks that need nothing of a failed one still run.
        before, after: called around each task that runs.

    Raises:
        TaskFailed: a task failed and the others do not go on; its dependents are canceled.
        Stopped: a signal came; the running task has been told and has ended.
    """
    for task in tasks:
        row = record.rows[task.name]
        if row["state"] == "done" and task.result.exists():
            say(f"-- {task.name}: done before.")
        else:
            row |= {"state": "pending", "why": None}
    record.write()
    with _Signals() as signals:
        for task in tasks:
            row, states = record.rows[task.name], record.states()
            if row["state"] != "pending" or any(states[name] != "done" for name in task.needs):
                continue
            if signals.received is not None:
                raise Stopped(f"interrupted before {task.name}; the same command continues.", signals.exit_code())
            before(task)
            _run(task, record, signals)
            after(task)
            if row["state"] == "interrupted":
                raise Stopped(f"{task.name} was interrupted; the same command continues.", signals.exit_code())
            if row["state"] == "failed":
                for name in dependents(tasks, task.name):
                    record.update(name, state="canceled", why=f"{task.name} failed")
                if not go_on:
                    code = row["exit_code"] if row["exit_code"] > 0 else EXIT_TRAINING_FAILED
                    raise TaskFailed(f"{task.name} {state_in_words(row)} (all that it said: {task.log}).", code)
                say(f"-- {task.name} failed: {row['why']}")


def command(words: Sequence[str]) -> list[str]:
    """How this very Umbel is started again."""
    return [sys.executable, "-m", "umbel", *words]


def ending(code: int, log: Path) -> tuple[str, str | None]:
    """State and reason of a task that ended with a code: its own sentence, where it said one."""
    if code == 0:
        return "done", None
    if code in STOPPED:
        return "interrupted", None
    if code < 0:
        name = signal.Signals(-code).name
        return "failed", f"it was killed by {name}" + (" (out of memory?)." if code == -signal.SIGKILL else ".")
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("umbel: ")]
    return "failed", said[-1].removeprefix("umbel: ") if said else f"it ended with exit code {code}."


def _run(task: Task, record: TaskRecord, signals: _Signals) -> None:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    _wait_for_orphan(task)
    say(f"-- {task.name}: umbel {shlex.join(task.words)}")
    record.begin(task.name, job=None)
    before = float(record.rows[task.name]["seconds"])
    with task.log.open("ab") as log, task.log.open("rb") as reading:
        reading.seek(0, os.SEEK_END)
        # A session of its own: what the terminal sends to all at once reaches the task through this process, once.
        process = subprocess.Popen(
            command(task.words),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        started = time.monotonic()
        signals.hand_to(process)
        code = _follow(process, reading)
        signals.hand_to(None)
    state, why = ending(code, task.log)
    if signals.received and state == "failed":
        state, why = "interrupted", None
    seconds = time.monotonic() - started
    record.update(task.name, state=state, why=why, exit_code=code, seconds=round(before + seconds, 3))
    if state == "done":
        say(f"-- {task.name}: done in {duration(seconds)}.")


def _follow(process: subprocess.Popen[bytes], reading: IO[bytes]) -> int:
    """Repeat what a task writes into its log until it ends; returns its exit code."""
    while True:
        try:
            code: int | None = process.wait(LOOK)
        except subprocess.TimeoutExpired:
            code = None
        if new := reading.read():
            sys.stdout.write(new.decode(errors="replace"))
            sys.stdout.flush()
        if code is not None:
            return code


def _wait_for_orphan(task: Task) -> None:
    """Wait for a task that went on when the command that had started it was killed."""
    for process in psutil.process_iter():
        try:
            if process.cmdline()[1:] == command(task.words)[1:] and Path(process.cwd()) == Path.cwd():
                say(f"-- {task.name}: still runs (process {process.pid}) since a command was killed: waiting for it.")
                process.wait()
        except psutil.Error:
            continue  # another user's, or it has just ended


class _Signals:
    """Hands what would stop this process to the task that runs, so that it can save."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

    def __init__(self) -> None:
        self.received: int | None = None
        self._target: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Signals:
        self._before = {number: signal.signal(number, self._hand_on) for number in self.NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def exit_code(self) -> int:
        """Asked to end for good by the user, or to make room by a scheduler."""
        return EXIT_REQUEUE if self.received in (signal.SIGTERM, signal.SIGUSR2) else EXIT_INTERRUPTED

    def hand_to(self, process: subprocess.Popen[bytes] | None) -> None:
        """The task that is told from now on; at once, if a signal came while it was being started."""
        self._target = process
        if process is not None and self.received is not None:
            process.send_signal(self.received)

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if self._target is not None:
            self._target.send_signal(number)
