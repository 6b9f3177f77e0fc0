"""Converting items to the records of a tar, in this process or several, the results in the order of the items."""

from __future__ import annotations

import collections
import io
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import webdataset

from umbel.run import UserError

BATCH = 8
"""Items that a process is handed at once."""
AHEAD = 3
"""Batches a process that wait for it, or for their turn to be written."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample to be written."""

    key: str
    jpg: bytes
    label: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    text: str | None = None

    def members(self) -> dict[str, Any]:
        """The members of the sample as webdataset writes them."""
        row: dict[str, Any] = {"__key__": self.key, "jpg": self.jpg}
        if self.label is not None:
            row["cls"] = str(self.label).encode()
        if self.metadata:
            row["json"] = json.dumps(self.metadata, ensure_ascii=False, sort_keys=True).encode()
        if self.text is not None:
            row["txt"] = self.text.encode()
        return row


MakeSample = Callable[[Any], Sample | str]
"""Makes a sample from an item, or says in words why it cannot (a bad photograph)."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of an item."""

    shard: str
    name: str
    """The item in words."""
    records: bytes = b""
    """The sample's members with their headers; empty for a bad item."""
    bad: str | None = None


def convert_in_order(items: Iterable[tuple[str, Any]], make: MakeSample, workers: int) -> Generator[Result, None, None]:
    """Convert items, each given with the name of its shard; at most so many wait that memory stays bounded.

    Raises:
        UserError: a worker process was ended from outside.
    """
    if workers <= 1:
        for item in items:
            yield _convert(item, make)
        return
    iterator = iter(items)
    # Spawned, not forked: the parent may already run threads (torch, a progress bar).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_become_worker) as pool:
        waiting: collections.deque[Future[list[Result]]] = collections.deque()
        try:
            while batch := list(islice(iterator, BATCH)):
                waiting.append(pool.submit(_convert_batch, batch, make))
                if len(waiting) >= AHEAD * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was ended from outside (is the memory full?): the same command goes on where this "
                "one stopped; fewer --workers need less memory."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _become_worker() -> None:
    """End with the parent, even one that is killed; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _convert_batch(batch: list[tuple[str, Any]], make: MakeSample) -> list[Result]:
    return [_convert(item, make) for item in batch]


def _convert(item: tuple[str, Any], make: MakeSample) -> Result:
    shard, given = item
    sample = make(given)
    if isinstance(sample, str):
        return Result(shard=shard, name=str(given), bad=sample)
    return Result(shard=shard, name=str(given), records=records_of(sample))


def records_of(sample: Sample) -> bytes:
    """The part of a tar that a sample is: headers and contents, each filled up to whole blocks."""
    buffer = io.BytesIO()
    # mtime 0 and no encoder: the bytes are a function of the sample alone. (0.0 would cost a header more a member.)
    with webdataset.TarWriter(buffer, encoder=False, mtime=0) as tar:
        tar.write(sample.members())
        length: int = tar.tarstream.offset
    return buffer.getvalue()[:length]
