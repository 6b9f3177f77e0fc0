"""A training run of many processes under supervision: it never stalls silently, and the first cause is what is told.

A thread on every rank tells where the rank is (`umbel.rank_notes`), looks where the others are (`umbel.rank_verdict`)
and ends the process, which may sit in a collective without end, when another one failed or none gets any further.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import torch

from umbel.rank_notes import NoteBoard, first_note
from umbel.rank_verdict import CONTINUE, RankVerdict, Verdict
from umbel.run import EXIT_TRAINING_FAILED, TrainingError, UmbelError

LOOK_SECONDS = 2.0
"""Between two looks at the notes."""
SILENT_LOOKS = 4
"""Looks without a sign of life after which a rank counts as gone, once a collective has failed."""
LEAVING_SECONDS = 5.0
"""What a rank that failed has for its own message and its end before others repeat it."""
DISK_SECONDS = 10.0
"""What the last words may take to be written."""
PAUSE = 10.0
"""How many times the limit a pause may take."""
GROUP_TIMEOUT = timedelta(days=20)
"""Of collectives, once the watch has begun; fewer milliseconds than 2**31."""


class RankWatch:
    """Supervision of this rank and by it, in a `with` statement around the training.

    An error that leaves the statement because another rank failed or is gone becomes a TrainingError that says so.

    Args:
        folder: the run's, the same for all ranks.
        start: see `umbel.ranks.new_start`.
        timeout: seconds without progress of any rank after which the run counts as hung.

    Raises:
        TrainingError: another rank failed first or is gone, or the ranks lost each other.
        OSError: the run folder cannot be written.
    """

    def __init__(self, folder: Path, *, start: str, rank: int, world_size: int, timeout: float) -> None:
        self.folder, self.rank, self.world_size, self.timeout = folder, rank, world_size, timeout
        seconds = min(LOOK_SECONDS, timeout / 5)
        # The thread reads it at any moment: it is replaced as a whole, and by the training alone.
        self._note = dataclasses.replace(first_note(rank), limit=timeout)
        self._board = NoteBoard(folder, start, rank=rank, world_size=world_size)
        self._verdict = RankVerdict(self._note, world_size=world_size, timeout=timeout, seconds=seconds)
        self._beats = 0
        self._over = threading.Event()
        self._one_speaks = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="rank watch", daemon=True)

    def at(self, where: str, times: float = 1.0) -> None:
        """Note where this rank is; without input or output. It may stay there for `times` the limit.

        Every rank calls it the same number of times: the one with the fewest calls is the one that others wait for.
        """
        self._place(where, moves=self._note.moves + 1, limit=times * self.timeout)

    @contextlib.contextmanager
    def paused(self, what: str, times: float = PAUSE) -> Iterator[None]:
        """Allow a long phase, on one rank or on all: `times` the limit.

        Ranks that merely wait for it need none: the run counts as hung only when all have reached their limits.
        """
        before = self._note
        self._place(what, moves=before.moves, limit=times * self.timeout)
        try:
            yield
        finally:
            self._place(before.where, moves=before.moves, limit=before.limit)

    def __enter__(self) -> RankWatch:
        self._board.open(self._note)
        _let_the_watch_judge()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._one_speaks:
            self._over.set()
        self._thread.join(DISK_SECONDS)
        if error is None or (isinstance(error, UmbelError) and error.everywhere):
            self._board.close()
            return
        with _deaf_to_sigterm():
            elsewhere = self._cause_elsewhere(error)
            self._tell(elsewhere or f"{self._verdict.names([self.rank])} failed first: {_in_words(error)}")
        if elsewhere is not None:
            raise TrainingError(f"{elsewhere}.") from error

    def _place(self, where: str, *, moves: int, limit: float) -> None:
        changes = self._note.changes + 1
        self._note = dataclasses.replace(self._note, where=where, moves=moves, limit=limit, changes=changes)

    def _run(self) -> None:
        while not self._over.wait(self._verdict.seconds):
            self._look()
            found = self._verdict.ended() or self._verdict.hang()
            if found is None:
                continue
            _let_leave(found)
            with self._one_speaks:
                if not self._over.is_set():
                    self._end(found)

    def _look(self) -> None:
        """Write the own note, read the others', and count."""
        dead = [rank for rank, note in self._board.notes.items() if note.is_gone()]
        self._beats += 1
        note = dataclasses.replace(self._note, beats=self._beats)
        answered = self._board.exchange(note, self._verdict.seconds)
        self._verdict.look(note, self._board.notes if answered else None, left=self._board.left, dead=dead)

    def _cause_elsewhere(self, error: BaseException) -> str | None:
        """What happened to another rank, if an error here may come of it."""
        # A collective that lost a rank raises RuntimeError, whatever the backend; users' errors are none.
        if self.world_size == 1 or not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
            return None
        for look in range(SILENT_LOOKS + 1):
            time.sleep(self._verdict.seconds if look else 0)
            self._look()
            found = self._verdict.ended()
            if found is not None:
                _let_leave(found)
                return found.sentence
        silent = self._verdict.silent(SILENT_LOOKS * self._verdict.seconds)
        if silent:
            return self._verdict.lost(silent)
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            return f"the ranks lost each other at {self._note.where} ({_in_words(error)}), and none failed; {CONTINUE}"
        return None

    def _end(self, found: Verdict) -> NoReturn:
        """End this process from the thread: the training's own may never wake."""
        self._tell(found.sentence, hung=found.hung)
        stacks = self._stacks() if found.hung else None
        for child in multiprocessing.active_children():
            child.kill()
        where = f" (Python stacks: {stacks})" if stacks else ""
        os.write(2, f"umbel: {found.sentence}{where}.\n".encode(errors="replace"))
        os._exit(EXIT_TRAINING_FAILED)

    def _stacks(self) -> Path | None:
        """Write where every Python thread of this process is; None if that cannot be written."""
        path, written = self.folder / f"stacks-rank-{self.rank:05d}.txt", threading.Event()

        def write() -> None:
            with contextlib.suppress(OSError), path.open("w") as file:
                faulthandler.dump_traceback(file)
                written.set()

        threading.Thread(target=write, daemon=True).start()
        return path if written.wait(DISK_SECONDS) else None

    def _tell(self, sentence: str, *, hung: bool = False) -> None:
        self._beats += 1
        note = dataclasses.replace(self._note, beats=self._beats, ended=sentence, hung=hung)
        self._board.exchange(note, DISK_SECONDS)


def _let_leave(found: Verdict) -> None:
    """Let a rank that failed speak and leave first: its launcher is to name it and not this one."""
    if found.by is not None and not found.hung:
        until = time.monotonic() + LEAVING_SECONDS
        while time.monotonic() < until and not found.by.is_gone():
            time.sleep(0.1)
        time.sleep(0.3)  # launchers look every tenth of a second


def _let_the_watch_judge() -> None:
    """Make the process group's own timeout, which ends in a traceback without a culprit, longer than any pause."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        group = torch.distributed  # public since torch 2.15
        change = group.set_timeout if hasattr(group, "set_timeout") else group.distributed_c10d._set_pg_timeout
        change(GROUP_TIMEOUT)


def _in_words(error: BaseException) -> str:
    """An error as a part of a sentence."""
    if isinstance(error, UmbelError):
        return str(error).rstrip(".")
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


@contextlib.contextmanager
def _deaf_to_sigterm() -> Iterator[None]:
    """A launcher that lost one rank sends SIGTERM to the others: it must not cut off what they find out and say."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
