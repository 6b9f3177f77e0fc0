"""Data workers under supervision: one that dies or hangs is an error that names the shard, never a silent stall.

Each worker notes in shared memory which shard it is at, and counts up with every read and every piece that it fetches.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from umbel.data.order import CursorSampler
from umbel.data.training import TrainingDataset
from umbel.run import TrainingError, UserError

POLL_SECONDS = 5.0
_PID, _SIGNS, _SHARD, _BUSY = range(4)
_CONTINUE = "; the same command continues from the last checkpoint."
_HINTS = {
    "Killed": "often for want of memory: lower --reader.workers",
    "Bus error": "often for want of shared memory (/dev/shm): lower --reader.workers or --train.batch",
}


class WorkerNotes:
    """What the workers tell of themselves while they run, in shared memory."""

    def __init__(self, workers: int) -> None:
        self.rows = torch.zeros((workers, 4), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

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

    def end_workers(self) -> None:
        """Kill what is left of the workers: a hung one would keep this process from ending."""
        pids = self.rows[:, _PID].tolist()
        for _ in range(10):
            left = [child for child in multiprocessing.active_children() if child.pid in pids]
            # torch's watch may raise at any place when a worker dies, once.
            with contextlib.suppress(RuntimeError):
                for child in left:
                    child.kill()
                for child in left:
                    child.join(1.0)
            if not left:
                return


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """A user's error in a worker, on its way to the training process (torch would make a traceback of it)."""

    message: str


class _Collated(Dataset[Any]):
    """The dataset with its collation, so that errors of both travel as items."""

    def __init__(self, dataset: TrainingDataset, collate: Callable[[Any], Any], notes: WorkerNotes) -> None:
        self.dataset, self.collate, self.notes = dataset, collate, notes

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
    sampler: CursorSampler,
    *,
    collate: Callable[[Any], Any],
    workers: int,
    pin: bool,
    timeout: float = 300.0,
) -> Iterator[Iterator[Any]]:
    """The sampler's micro-batches through a DataLoader, in a `with` statement.

    Args:
        collate: adds in the workers what goes along with a batch.
        timeout: seconds without a sign of life after which a worker counts as hung.

    Raises:
        TrainingError: a worker died or hung; anywhere inside the `with` statement.
        UserError: a shard that cannot be read, or what else a user can mend.
    """
    notes = WorkerNotes(workers)
    dataset.reader.progress = notes.reads
    poll = min(POLL_SECONDS, timeout / 4)

    loader: DataLoader[Any] = DataLoader(
        _Collated(dataset, collate, notes),
        batch_sampler=sampler,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=functools.partial(_begin, notes),
        timeout=poll if workers else 0,
    )
    try:
        yield _received(iter(loader), sampler, dataset, notes, poll=poll, timeout=timeout)
    except BaseException as error:
        notes.end_workers()
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            raise TrainingError(_death(str(error), dataset, notes)) from error
        raise


def _received(
    batches: Iterator[Any],
    sampler: CursorSampler,
    dataset: TrainingDataset,
    notes: WorkerNotes,
    *,
    poll: float,
    timeout: float,
) -> Iterator[Any]:
    """Batches as they come; time is counted in polls, so that a suspended machine accuses nobody."""
    for cursors in sampler:
        signs, silent = notes.rows[:, _SIGNS].clone(), torch.zeros(len(notes.rows))
        while True:
            try:
                item = next(batches)
                break
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
            now = notes.rows[:, _SIGNS].clone()
            silent = torch.where(now == signs, silent + poll, 0.0)
            signs = now
            hung = ((silent >= timeout) & (notes.rows[:, _BUSY] == 1)).nonzero().flatten().tolist()
            if hung:
                place = _place(dataset, int(notes.rows[hung[0], _SHARD]))
                raise TrainingError(
                    f"data worker {hung[0]} gave no sign of life for {timeout:g} s while reading shard {place}: its "
                    f"disk or network does not answer, or the process is stopped{_CONTINUE}"
                )
            if bool((silent >= timeout).all()):
                place = _place(dataset, dataset.shard_of(cursors[0]))
                raise TrainingError(
                    f"the data workers gave no sign of life for {timeout:g} s in front of shard {place}: one of them "
                    f"is stopped{_CONTINUE}"
                )
        if isinstance(item, _Failure):
            raise UserError(item.message)
        yield item


def _death(message: str, dataset: TrainingDataset, notes: WorkerNotes) -> str:
    """torch's message about a dead worker, with the shard that it was at."""
    pids = [int(pid) for pid in re.findall(r"\d+", message.partition(")")[0] + message.partition("pid(s)")[2])]
    found = [number for number, pid in enumerate(notes.rows[:, _PID].tolist()) if pid in pids]
    how = re.search(r"signal: ([\w ]+)", message)
    cause = f"was ended by the signal {how[1]}" if how else "ended unexpectedly"
    if not found:
        return f"a data worker {cause}{_CONTINUE}"
    place = _place(dataset, int(notes.rows[found[0], _SHARD]))
    busy = "while reading" if notes.rows[found[0], _BUSY] else "after reading"
    hint = f" ({_HINTS[how[1]]})" if how and how[1] in _HINTS else ""
    return f"data worker {found[0]} {cause} {busy} shard {place}{hint}{_CONTINUE}"


def _place(dataset: TrainingDataset, shard: int) -> str:
    return dataset.reader.shards.shards[shard].place


def _as_it_is(item: Any) -> Any:
    return item


def _begin(notes: WorkerNotes, worker: int) -> None:
    notes.rows[worker, _PID] = os.getpid()
    # Ctrl-C and SLURM signal the whole process group: workers go on until the trainer has saved and ends them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
