"""Data workers under supervision: one that dies or hangs is an error that names the shard, never a silent stall.

Each worker notes in shared memory which shard it is at, and counts up with every read and every piece that it fetches.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from umbel.data.canvas_pool import canvas_pool
from umbel.data.order import CursorSampler
from umbel.data.training import TrainingDataset
from umbel.run import TrainingError, UserError

POLL_SECONDS = 5.0
_PID, _SIGNS, _SHARD, _BUSY = range(4)
Batches = CursorSampler | Sequence[list[int]]
_CONTINUE = "; the same command goes on from what is saved."
_HINTS: dict[int, str] = {
    signal.SIGKILL: " (often for want of memory: lower --reader.workers)",
    signal.SIGBUS: " (often for want of shared memory, /dev/shm: lower --reader.workers or --train.batch)",
}


class WorkerNotes:
    """What the workers tell of themselves while they run, in shared memory."""

    def __init__(self, workers: int) -> None:
        self._shared = torch.zeros((workers, 4), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def rows(self) -> np.ndarray:  # (W, 4) int64
        """A row for each worker: process, signs of life, shard, whether it makes a batch."""
        array: np.ndarray = self._shared.numpy()
        return array

    def reads(self, shard: int) -> None:
        """A sign of life of the worker that calls it."""
        self._note(shard=shard, busy=1)

    def waits(self) -> None:
        """The worker's batch is made."""
        self._note(busy=0)

    def _note(self, *, busy: int, shard: int | None = None) -> None:
        worker = get_worker_info()
        if worker is not None:
            row = self.rows[worker.id]
            row[_SIGNS] += 1
            row[_BUSY] = busy
            if shard is not None:
                row[_SHARD] = shard


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """A user's error in a worker, on its way to the training process (torch would make a traceback of it)."""

    message: str


class _Collated(Dataset[Any]):
    """The dataset with its collation, so that errors of both travel as items."""

    def __init__(self, dataset: TrainingDataset, collate: Callable[[Any], Any], notes: WorkerNotes) -> None:
        self.dataset, self.collate, self.notes = dataset, collate, notes
        # The DataLoader's iterator holds this; the dataset may be given another pool while batches still arrive.
        self.pool = dataset.pool

    def __getitems__(self, cursors: Sequence[int]) -> Any:
        try:
            return self.collate(self.dataset.__getitems__(cursors))
        except UserError as error:
            return _Failure(message=str(error))
        finally:
            self.notes.waits()


@contextlib.contextmanager
def training_batches(
    dataset: TrainingDataset,
    sampler: Batches,
    *,
    collate: Callable[[Any], Any],
    workers: int,
    pin: bool,
    timeout: float = 300.0,
) -> Iterator[Iterator[Any]]:
    """The sampler's micro-batches through a DataLoader, in a `with` statement.

    Args:
        sampler: the cursors of each micro-batch.
        collate: adds in the workers what goes along with a batch.
        timeout: seconds without a sign of life after which a worker counts as hung.

    Raises:
        TrainingError: a worker died or hung; anywhere inside the `with` statement.
        UserError: a shard that cannot be read, or what else a user can mend.
    """
    notes = WorkerNotes(workers)
    dataset.reader.progress = notes.reads
    dataset.pool = canvas_pool(workers, _micro_batch(sampler), dataset.canvas)
    watch = _Watch(dataset, notes, timeout)
    loader: DataLoader[Any] = DataLoader(
        _Collated(dataset, collate, notes),
        batch_sampler=sampler,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=functools.partial(_begin, notes),
    )
    before = multiprocessing.active_children()
    try:
        batches = iter(loader)
        watch.children = [child for child in multiprocessing.active_children() if child not in before]
        if workers:
            watch.start()
        yield watch.pass_on(batches, sampler)
    except BaseException as error:
        # A dead worker shows as torch's RuntimeError, wherever the process is, or as a pipe that breaks.
        lost = bool(watch.children) and isinstance(error, (RuntimeError, OSError, EOFError))
        cause = (watch.verdict or _death(dataset, notes, watch.children)) if lost else None
        _end(watch.children)
        if cause is not None:
            raise TrainingError(cause) from error
        raise
    finally:
        watch.over.set()


class _Watch(threading.Thread):
    """Ends workers that hang while a batch is waited for, which wakes the training process with an error.

    A thread, and not the DataLoader's own timeout: receiving a batch that a worker has made needs that worker's help,
    and torch waits for it without end. Time is counted in polls, so that a suspended machine accuses nobody.
    """

    def __init__(self, dataset: TrainingDataset, notes: WorkerNotes, timeout: float) -> None:
        super().__init__(daemon=True)
        self.dataset, self.notes, self.timeout = dataset, notes, timeout
        self.over = threading.Event()
        self.verdict: str | None = None
        self.children: Sequence[BaseProcess] = ()
        self._awaited: int | None = None  # cursor of the batch that is waited for

    def pass_on(self, batches: Iterator[Any], sampler: Batches) -> Iterator[Any]:
        """The batches as they come."""
        for cursors in sampler:
            self._awaited = cursors[0]
            item = next(batches)
            self._awaited = None
            if isinstance(item, _Failure):
                raise UserError(item.message)
            yield item

    def run(self) -> None:
        """Count how long each worker has been silent in one and the same waiting."""
        poll = min(POLL_SECONDS, self.timeout / 4)
        rows = self.notes.rows
        awaited, signs, silent = None, rows[:, _SIGNS].copy(), np.zeros(len(rows))
        while not self.over.wait(poll):
            now = rows[:, _SIGNS].copy()
            silent = np.where(now == signs, silent + poll, 0.0)
            if self._awaited is None or self._awaited != awaited:
                silent[:] = 0
            awaited, signs = self._awaited, now
            late = silent >= self.timeout
            hung = np.flatnonzero(late & (rows[:, _BUSY] == 1)).tolist()
            # Those that are well fall silent too, when they have made what they may make ahead.
            if awaited is not None and bool(late.all()):
                self._end(hung, awaited)
                return

    def _end(self, hung: list[int], awaited: int) -> None:
        for_long = f"gave no sign of life for {self.timeout:g} s"
        if hung:
            place = _place(self.dataset, int(self.notes.rows[hung[0], _SHARD]))
            cause = "its disk or network does not answer, or the process is stopped"
            self.verdict = f"data worker {hung[0]} {for_long} while reading shard {place}: {cause}{_CONTINUE}"
        else:
            place = _place(self.dataset, self.dataset.shard_of(awaited))
            self.verdict = f"the data workers {for_long} in front of shard {place}: one is stopped{_CONTINUE}"
        pids = self.notes.rows[hung, _PID].tolist()
        for child in self.children:
            if child.pid in pids or not hung:
                child.kill()


def _death(dataset: TrainingDataset, notes: WorkerNotes, children: Sequence[BaseProcess]) -> str | None:
    """Which worker died, how, and at which shard; None if none did."""
    # A dying process closes its pipes a moment before it is dead; when it is, torch's watch raises, once and anywhere.
    for _ in range(2):
        with contextlib.suppress(RuntimeError):
            ended = multiprocessing.connection.wait([child.sentinel for child in children], timeout=1.0)
            for child in children:
                child.join(1.0 if child.sentinel in ended else 0.0)
    dead = next((child for child in children if child.exitcode is not None), None)
    if dead is None or dead.exitcode is None:
        return None
    how = f"was ended by {signal.Signals(-dead.exitcode).name}" if dead.exitcode < 0 else "ended unexpectedly"
    hint = _HINTS.get(-dead.exitcode, "")
    found = np.flatnonzero(notes.rows[:, _PID] == dead.pid).tolist()
    if not found:
        return f"a data worker {how} before it read anything{hint}{_CONTINUE}"
    busy = "while reading" if notes.rows[found[0], _BUSY] else "after reading"
    place = _place(dataset, int(notes.rows[found[0], _SHARD]))
    return f"data worker {found[0]} {how} {busy} shard {place}{hint}{_CONTINUE}"


def _end(children: Sequence[BaseProcess]) -> None:
    """Kill what is left of the workers: a hung one would keep this process from ending."""
    for _ in range(10):
        with contextlib.suppress(RuntimeError):
            for child in children:
                child.kill()
            for child in children:
                child.join(1.0)
        if all(child.exitcode is not None for child in children):
            return


def _place(dataset: TrainingDataset, shard: int) -> str:
    return dataset.reader.shards.shards[shard].place


def _micro_batch(sampler: Batches) -> int:
    """The most samples that come at a time."""
    if isinstance(sampler, CursorSampler):
        return sampler.slices.micro_batch
    return max(map(len, sampler), default=0)


def _as_it_is(item: Any) -> Any:
    return item


def _begin(notes: WorkerNotes, worker: int) -> None:
    notes.rows[worker, _PID] = os.getpid()
    # Ctrl-C and SLURM signal the whole process group: workers go on until the trainer has saved and ends them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
