"""Shards that are being written: samples appended to many at once, with a journal that a killed command goes on from.

A shard is `.<name>.tmp` until its last sample is there. The journal is written after the bytes it tells of are durable;
bytes behind it are cut off at the next start.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from tarfile import BLOCKSIZE, RECORDSIZE

from umbel.data.convert import Result
from umbel.run import UserError, read_json, say, sync_folder, write_atomic

JOURNAL = ".journal.json"
PENDING_BYTES = 1 << 28
"""Samples wait in memory up to this many bytes, so that each save adds to a shard at one stroke."""
SAVE_SECONDS = 30.0
"""And no longer than this."""


class UnfinishedShards:
    """The shards of a plan, as far as they are written."""

    def __init__(self, out: Path, counts: Mapping[str, int]) -> None:
        """Go on from the journal in `out`, or begin.

        Args:
            counts: the number of items of every shard, the bad ones included.

        Raises:
            UserError: the journal cannot be read.
        """
        self.out, self.counts = out, counts
        self._begin()
        if (out / JOURNAL).is_file() and not self._recover():
            say(f"{out}: a shard that was begun is gone, so all are made again.")
            self._begin()

    def _begin(self) -> None:
        self.taken = 0
        """Items that are dealt with, in the order of their arrival."""
        self.bad: dict[str, str] = {}
        """Those of them that are bad: name -> reason."""
        self._arrived = dict.fromkeys(self.counts, 0)
        self._bytes = dict.fromkeys(self.counts, 0)
        self._waiting: dict[str, list[bytes]] = {}
        self._waiting_bytes = 0
        self._saved = time.monotonic()
        self._whole = True
        """No addition or save is under way or was broken off."""

    def add(self, result: Result) -> None:
        """Take in the next item's result; saved every so often."""
        self._whole = False
        self.taken += 1
        self._arrived[result.shard] += 1
        if result.bad is not None:
            self.bad[result.name] = result.bad
        self._waiting.setdefault(result.shard, []).append(result.records)
        self._waiting_bytes += len(result.records)
        if self._waiting_bytes >= PENDING_BYTES or time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()
        self._whole = True

    def save_if_whole(self) -> None:
        """Save, unless an interruption came in the middle of an addition: then the last save holds."""
        if self._whole:
            self.save()

    def save(self) -> None:
        """Make all that was added durable; of nothing there is no journal."""
        if not self.taken:
            return
        self._whole = False
        touched = list(self._waiting)
        for name in touched:
            self._append(name, b"".join(self._waiting.pop(name)))
        # All are written before the first is waited for: the disk works on them together.
        for name in touched:
            _sync(self._partial(name))
        for name in touched:
            if self._arrived[name] == self.counts[name]:
                self._partial(name).replace(self.out / name)
        sync_folder(self.out)
        shards = {name: [self._bytes[name], arrived] for name, arrived in self._arrived.items() if arrived}
        journal = {"format": 1, "taken": self.taken, "shards": shards, "bad": self.bad}
        write_atomic(self.out / JOURNAL, json.dumps(journal, ensure_ascii=False))
        self._waiting_bytes, self._saved = 0, time.monotonic()
        self._whole = True

    def discard(self) -> None:
        """Forget what was saved and remove it: the next start begins anew."""
        (self.out / JOURNAL).unlink(missing_ok=True)
        for name in self.counts:
            self._partial(name).unlink(missing_ok=True)
            (self.out / name).unlink(missing_ok=True)

    def _append(self, name: str, records: bytes) -> None:
        partial = self._partial(name)
        # Nothing of it saved: begun anew, whatever an earlier start left there.
        with partial.open("ab" if self._bytes[name] else "wb") as file:
            file.write(records)
            self._bytes[name] += len(records)
            if self._arrived[name] == self.counts[name]:
                # A tar ends in two blocks of zeros, and its length is a multiple of RECORDSIZE.
                end = 2 * BLOCKSIZE + -(self._bytes[name] + 2 * BLOCKSIZE) % RECORDSIZE
                file.write(bytes(end))

    def _recover(self) -> bool:
        """Bring the files to the state that the journal tells of; False if one of them is gone."""
        journal = read_json(self.out / JOURNAL, "the journal")
        try:
            self.taken, self.bad = int(journal["taken"]), dict(journal["bad"])
            for name, (length, arrived) in journal["shards"].items():
                self._bytes[name], self._arrived[name] = int(length), int(arrived)
                if not self._restore(name):
                    return False
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the journal {self.out / JOURNAL} is damaged: delete it to begin anew.") from error
        return True

    def _restore(self, name: str) -> bool:
        partial, final = self._partial(name), self.out / name
        if self._arrived[name] == self.counts[name]:
            return final.is_file() and final.stat().st_size >= self._bytes[name]
        if final.is_file():
            final.replace(partial)  # finished after the journal was written
        if not partial.is_file() or partial.stat().st_size < self._bytes[name]:
            return False
        os.truncate(partial, self._bytes[name])
        return True

    def _partial(self, name: str) -> Path:
        return self.out / f".{name}.tmp"


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
