"""The index of a set of shards: which samples there are, and the byte offset and length of every member.

A folder that Umbel writes has `index.json` and `members.npy`; for shards from elsewhere the same is computed on first
use and kept in the user's cache, never beside their files. With it, any sample is one seek (POSIX pread).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from braceexpand import braceexpand

from umbel.data.scan import MEMBER, SHARD_NAME, ScannedShard, Shard, scan_shard, split_of
from umbel.run import Bar, UserError, read_json, write_atomic

PRETRAINING_SPLITS = ("train", "unlabeled")


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """Shards and their members, in shard order; sample i is row i of `members` and `keys`."""

    shards: tuple[Shard, ...]
    members: np.ndarray  # (N,) of MEMBER
    keys: np.ndarray  # (N,) of fixed-width UTF-8 bytes
    classes: tuple[str, ...]
    """Line n of classes.txt names label n; empty without labels."""

    def __len__(self) -> int:
        return len(self.members)

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
        if not chosen:
            there = ", ".join(sorted({shard.split for shard in self.shards}))
            raise UserError(f"no shard is of split {' or '.join(splits)}; there are: {there}.")
        renumber = np.full(len(self.shards), -1, dtype=np.int64)
        renumber[chosen] = np.arange(len(chosen))
        keep = renumber[self.members["shard"]] >= 0
        members = self.members[keep].copy()
        members["shard"] = renumber[members["shard"]]
        shards = tuple(self.shards[number] for number in chosen)
        return ShardSet(shards=shards, members=members, keys=self.keys[keep], classes=self.classes)


def find_shards(data: str) -> list[Path]:
    """The tar files that DATA names: a folder, one file, or a brace pattern; [] if it names none."""
    path = Path(data)
    if path.is_dir():
        return sorted(file for file in path.iterdir() if SHARD_NAME.fullmatch(file.name))
    if path.suffix == ".tar" or "{" in data:
        try:
            paths = [Path(name) for name in braceexpand(data)]
        except ValueError as error:  # UnbalancedBracesError
            raise UserError(f"{data}: its braces are not balanced.") from error
        missing = [str(name) for name in paths if not name.is_file()]
        if missing:
            raise UserError(f"{missing[0]}: there is no such shard.")
        return paths
    return []


def open_shards(data: str) -> ShardSet:
    """Open a set of shards through its index, which is computed where it is missing.

    Raises:
        UserError: no shards, a shard that is cut off or differs from its index, labels without a class name.
    """
    paths = find_shards(data)
    if not paths:
        raise UserError(f"{data}: there are no shards (<split>-NNNNNN.tar) here.")
    for path in paths:
        split_of(path)
    folders = sorted({path.parent for path in paths})
    parts = [_open_folder(folder, [p for p in paths if p.parent == folder], Path(data).is_dir()) for folder in folders]
    if len({part.classes for part in parts}) > 1:
        raise UserError(f"{data}: the folders' classes.txt differ, so their labels do not mean the same.")
    shards = _concatenate(parts)
    if not len(shards):
        raise UserError(f"{data}: the shards hold no photographs (<key>.jpg).")
    return shards


def _open_folder(folder: Path, paths: Sequence[Path], whole: bool) -> ShardSet:
    """Open shards of one folder; `whole`: all that its index lists must be there."""
    if (folder / "index.json").is_file():
        return _read_index(folder, paths, whole)
    cache = _cache_folder(folder, paths)
    if not (cache / "index.json").is_file():
        write_index(cache, [scan_shard(path) for path in _with_bar(paths)], classes=read_classes(folder))
    return _read_index(cache, paths, whole)


def _concatenate(parts: Sequence[ShardSet]) -> ShardSet:
    """Sets of several folders as one, in order."""
    members = np.concatenate([part.members for part in parts])
    firsts = np.cumsum([0, *(len(part.shards) for part in parts[:-1])])
    members["shard"] += np.repeat(firsts, [len(part) for part in parts]).astype(np.uint32)
    return ShardSet(
        shards=tuple(shard for part in parts for shard in part.shards),
        members=members,
        keys=np.concatenate([part.keys for part in parts]),
        classes=parts[0].classes,
    )


def read_classes(folder: Path) -> tuple[str, ...]:
    """The class names of a folder of shards; () where it has no classes.txt."""
    path = folder / "classes.txt"
    return tuple(path.read_text().splitlines()) if path.is_file() else ()


def write_index(folder: Path, scanned: Iterable[ScannedShard], classes: Sequence[str]) -> None:
    """Write members.npy, then index.json, each atomically; the index is valid once index.json is there."""
    scanned = list(scanned)
    folder.mkdir(parents=True, exist_ok=True)
    members = np.concatenate([s.members for s in scanned]) if scanned else np.empty(0, MEMBER)
    members["shard"] = np.repeat(np.arange(len(scanned)), [len(s.members) for s in scanned])
    keys = np.array([key for s in scanned for key in s.keys], dtype=np.bytes_)
    for name, array in (("members.npy", members), ("keys.npy", keys)):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_atomic(folder / name, buffer.getvalue())
    splits: dict[str, int] = {}
    for s in scanned:
        splits[s.shard.split] = splits.get(s.shard.split, 0) + s.shard.count
    shards = [
        {"name": s.shard.path.name, "split": s.shard.split, "count": s.shard.count}
        | {"bytes": s.shard.bytes, "sha256": s.shard.sha256}
        for s in scanned
    ]
    index = {"format": 1, "splits": splits, "classes": list(classes), "shards": shards}
    write_atomic(folder / "index.json", json.dumps(index, indent=1) + "\n")


def _read_index(folder: Path, paths: Sequence[Path], whole: bool) -> ShardSet:
    """Read an index and check it against the files' sizes."""
    index = read_json(folder / "index.json", "the index")
    try:
        members, keys = _load_array(folder / "members.npy"), _load_array(folder / "keys.npy")
        if members.dtype != MEMBER or not len(members) == len(keys) == sum(row["count"] for row in index["shards"]):
            raise ValueError("its parts do not fit together")
        found = ShardSet(shards=(), members=members, keys=keys, classes=tuple(index["classes"]))
        return _match(folder, paths, whole, index["shards"], found)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the index in {folder} is damaged ({error}): delete its index.json to have it made anew."
        ) from error


def _load_array(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path.name} is missing or no array") from error
    return array


def _match(
    folder: Path, paths: Sequence[Path], whole: bool, listed: Sequence[dict[str, Any]], found: ShardSet
) -> ShardSet:
    """The part of an index's samples that the given files stand for; `listed` are its rows of shards."""
    rows = {row["name"]: (number, row) for number, row in enumerate(listed)}
    starts = np.cumsum([0, *(row["count"] for row in listed)])
    shards, order = [], []
    for path in paths:
        if path.name not in rows:
            raise UserError(f"shard {path} is not in {folder / 'index.json'}: move it elsewhere, or delete the index.")
        number, row = rows[path.name]
        size = path.stat().st_size
        if size != row["bytes"]:
            state = "cut off" if size < row["bytes"] else "longer than it was"
            raise UserError(f"shard {path} is {state}: {size} bytes, where its index has {row['bytes']}.")
        fields = {name: row[name] for name in ("split", "count", "bytes", "sha256")}
        shards.append(Shard(path=path, **fields))
        order.append(number)
    lacking = set(rows) - {path.name for path in paths}
    if lacking and whole:
        raise UserError(f"shard {folder / min(lacking)} is missing; {folder / 'index.json'} lists it.")
    picked = np.concatenate([np.arange(starts[n], starts[n + 1]) for n in order]).astype(np.int64)
    members = found.members[picked]
    members["shard"] = np.repeat(np.arange(len(shards)), [shard.count for shard in shards])
    return ShardSet(shards=tuple(shards), members=members, keys=found.keys[picked], classes=found.classes)


def _cache_folder(folder: Path, paths: Sequence[Path]) -> Path:
    """Where the index of shards from elsewhere is kept; another place as soon as a file changes."""
    told = [folder / "classes.txt"] if (folder / "classes.txt").is_file() else []
    state = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in [*paths, *told]]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "umbel" / "index" / hashlib.sha256(repr(state).encode()).hexdigest()[:24]


def _with_bar(paths: Sequence[Path]) -> Iterable[Path]:
    """Show progress over the paths; a first look at many shards takes a while."""
    with Bar("indexing shards", len(paths)) as bar:
        for path in paths:
            yield path
            bar.advance()
