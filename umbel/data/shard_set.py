"""A set of shards: which samples there are, and the byte offset and length of every member."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from umbel.data.index_file import IndexFile
from umbel.data.order import Mix
from umbel.data.remote import without_query
from umbel.data.scan import Shard
from umbel.data.shard_cache import ShardCache
from umbel.run import UserError


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """Shards and their members, in shard order; sample i is row i of `members` and `keys`."""

    shards: tuple[Shard, ...]
    members: np.ndarray  # (N,) of MEMBER
    keys: np.ndarray  # (N,) of fixed-width UTF-8 bytes
    classes: tuple[str, ...]
    """Line n of classes.txt names label n; empty without labels."""
    cache: ShardCache | None = None
    """Where remote shards are kept."""
    mix: Mix | None = None
    """How the sets that this one consists of are mixed in training."""

    def __len__(self) -> int:
        return len(self.members)

    @property
    def epoch(self) -> int:
        """Samples of a training epoch."""
        return len(self) if self.mix is None else self.mix.epoch

    @property
    def folder(self) -> str:
        """The folder, or the part of the URL, that the first shard lies in."""
        first = self.shards[0]
        return str(first.path.parent) if first.url is None else without_query(first.url).rpartition("/")[0]

    def key(self, sample: int) -> str:
        """The key of a sample: its members' common name."""
        return bytes(self.keys[sample]).decode()

    def fingerprint(self) -> str:
        """A hash of what the set contains (keys and sizes in order), wherever it lies."""
        digest = hashlib.sha256(np.ascontiguousarray(self.members["jpg_bytes"]).tobytes())
        digest.update(b"\n".join(bytes(key) for key in self.keys))
        return digest.hexdigest()[:16]

    def select(self, splits: Sequence[str]) -> ShardSet:
        """The shards of some splits.

        Raises:
            UserError: there are none.
        """
        chosen = [number for number, shard in enumerate(self.shards) if shard.split in splits]
        if len(chosen) == len(self.shards):
            return self
        if not chosen:
            there = ", ".join(sorted({shard.split for shard in self.shards}))
            raise UserError(f"no shard is of split {' or '.join(splits)}; there are: {there}.")
        renumber = np.full(len(self.shards), -1, dtype=np.int64)
        renumber[chosen] = np.arange(len(chosen))
        keep = renumber[self.members["shard"]] >= 0
        members = self.members[keep]
        members["shard"] = renumber[members["shard"]]
        shards = tuple(self.shards[number] for number in chosen)
        return dataclasses.replace(self, shards=shards, members=members, keys=self.keys[keep])


def concatenate(parts: Sequence[ShardSet]) -> ShardSet:
    """Several sets as one, in order, with the classes of the first."""
    if len(parts) == 1:
        return parts[0]
    members = np.concatenate([part.members for part in parts])
    firsts = np.cumsum([0, *(len(part.shards) for part in parts[:-1])])
    members["shard"] += np.repeat(firsts, [len(part) for part in parts]).astype(np.uint32)
    return ShardSet(
        shards=tuple(shard for part in parts for shard in part.shards),
        members=members,
        keys=np.concatenate([part.keys for part in parts]),
        classes=parts[0].classes,
        cache=next((part.cache for part in parts if part.cache is not None), None),
    )


def pick(index: IndexFile, files: Sequence[tuple[str, Path, str | None]]) -> ShardSet:
    """The part of an index's samples that some shards (name, path, URL) stand for, in their order."""
    shards, parts = [], []
    for name, path, url in files:
        row = index.rows[name]
        fields = {field: row[field] for field in ("split", "count", "bytes", "sha256")}
        shards.append(Shard(path=path, url=url, **fields))
        parts.append(np.arange(row["first"], row["first"] + row["count"]))
    members, keys = index.members, index.keys
    if [name for name, _, _ in files] != list(index.rows):
        picked = np.concatenate(parts)
        members, keys = members[picked], keys[picked]
        members["shard"] = np.repeat(np.arange(len(shards)), [shard.count for shard in shards])
    return ShardSet(shards=tuple(shards), members=members, keys=keys, classes=index.classes)
