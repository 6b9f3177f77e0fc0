"""Reading members of samples through the index: by seek, from local shards or through the cache of remote ones."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, TypeVar

from umbel.data.index import CACHE_GIB, ShardSet
from umbel.data.unreadable import UnreadableShardError, retried

OPEN_FILES = 64
LONGEST_SIDE = 65535
"""Pixels of the longest side that a JPEG file can have."""
MOST_GIB = 2**20
"""A pebibyte."""
Unreadable = Literal["stop", "skip"]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How samples are read."""

    canvas: int = 512
    """Longer side of a decoded photograph in pixels; larger ones are shrunk, smaller ones never enlarged."""
    window: int = 8
    """Shards whose samples are mixed with one another; no others are open, or fetched but the next window's."""
    workers: int = -1
    """Processes that decode on each rank; -1: chosen by the processors at hand, 0: the training process itself."""
    max_bad: float = 0.01
    """Share of photographs that may be damaged before training stops."""
    unreadable_shards: Unreadable = "stop"
    """What a shard that cannot be read after several tries does: stop, or skip (its samples count as damaged)."""
    timeout: float = 300.0
    """Seconds without a sign of life after which a data worker counts as hung."""
    cache_gib: float = CACHE_GIB
    """Disk space for remote shards in GiB (in the user's cache folder); two windows must fit."""
    allow_pipe: bool = False
    """Let DATA be a `pipe:` URL, which runs a shell command."""

    def __post_init__(self) -> None:
        for name, low in (("canvas", 16), ("window", 1), ("workers", -1)):
            if getattr(self, name) < low:
                raise ValueError(f"reader.{name} must be at least {low}, not {getattr(self, name)}")
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"reader.max_bad is a share between 0 and 1, not {self.max_bad}")
        if self.canvas > LONGEST_SIDE:
            raise ValueError(f"reader.canvas must be at most {LONGEST_SIDE}, as JPEG files are, not {self.canvas}")
        if not self.timeout > 0:
            raise ValueError(f"reader.timeout must be positive, not {self.timeout:g}")
        if not 0 < self.cache_gib <= MOST_GIB:
            raise ValueError(f"reader.cache_gib must be positive and at most {MOST_GIB}, not {self.cache_gib:g}")


class ShardReader:
    """Reads members by seek; keeps up to `window` shards open in each process (and no more than OPEN_FILES).

    One is enough in file order, and opening is cheap; the cache evicts no remote shard that is open.
    """

    def __init__(self, shards: ShardSet, *, window: int = 1) -> None:
        self.shards, self.limit = shards, min(window, OPEN_FILES)
        self.progress: Callable[[int], None] = _unobserved
        """Called with a shard's number while it is read: a sign of life."""
        self._open: OrderedDict[int, int] = OrderedDict()
        self._given_up: dict[int, UnreadableShardError] = {}
        self._pid = os.getpid()
        weakref.finalize(self, _close_all, self._open)

    def read(self, sample: int, kind: str) -> bytes:
        """The bytes of a sample's member (`jpg`, `json`, `txt`); b"" if it has none.

        Raises:
            UnreadableShardError: its shard cannot be read, however often it is tried.
        """
        row = self.shards.members[sample]
        shard, length, offset = int(row["shard"]), int(row[f"{kind}_bytes"]), int(row[f"{kind}_offset"])
        if not length:
            return b""

        def read() -> bytes:
            try:
                content = os.pread(self._descriptor(shard), length, offset)
                if len(content) < length:
                    raise OSError("it is shorter than its index tells")
            except OSError:
                self._close(shard)
                raise
            return content

        return self._retried(read, shard)

    def open(self, shard: int) -> None:
        """Open a shard; a remote one lies at its path from then on, as long as it is open.

        Raises:
            UnreadableShardError: it cannot be read, however often it is tried.
        """
        self._retried(lambda: self._descriptor(shard), shard)

    def _retried(self, read: Callable[[], Result], shard: int) -> Result:
        """What `read` gives; a shard that gave nothing is not tried again."""
        if shard in self._given_up:
            raise self._given_up[shard]

        def observed() -> Result:
            self.progress(shard)
            return read()

        try:
            return retried(observed, f"shard {self.shards.shards[shard].place}", skippable=True)
        except UnreadableShardError as error:
            self._given_up[shard] = error
            raise

    def keep(self, shards: Collection[int]) -> None:
        """Close all shards but these; others that were given up may be tried again."""
        self._own()
        for shard in [shard for shard in self._open if shard not in shards]:
            self._close(shard)
        self._given_up = {shard: error for shard, error in self._given_up.items() if shard in shards}

    def _descriptor(self, shard: int) -> int:
        self._own()
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            self._open[shard] = self._open_shard(shard)
            if len(self._open) > self.limit:
                os.close(self._open.popitem(last=False)[1])
        return self._open[shard]

    def _open_shard(self, number: int) -> int:
        shard, cache = self.shards.shards[number], self.shards.cache
        if shard.url is None or cache is None:
            return os.open(shard.path, os.O_RDONLY)
        return cache.open(
            shard.url, shard.path, size=shard.bytes, sha256=shard.sha256, progress=lambda: self.progress(number)
        )

    def _close(self, shard: int) -> None:
        if shard in self._open:
            os.close(self._open.pop(shard))

    def _own(self) -> None:
        """In a forked worker the parent's table is its own from here on."""
        if self._pid != os.getpid():
            self._open.clear()
            self._pid = os.getpid()


def _close_all(descriptors: OrderedDict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def _unobserved(_: int) -> None:
    pass
