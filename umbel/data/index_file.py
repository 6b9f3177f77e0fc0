"""The files of an index: index.json (shards, splits, classes), members.npy and keys.npy, in shard order."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from umbel.data.scan import MEMBER, ScannedShard, split_of
from umbel.data.shard_cache import cache_root
from umbel.run import Bar, UserError, read_json, write_atomic

Place = TypeVar("Place", Path, str)
ARRAYS = ("members.npy", "keys.npy")


@dataclass(frozen=True, kw_only=True)
class IndexFile:
    """What an index holds."""

    rows: dict[str, dict[str, Any]]
    """Name of a shard -> its number, split, count, bytes, sha256 and first sample, in order."""
    members: np.ndarray  # (N,) of MEMBER
    keys: np.ndarray  # (N,) of fixed-width UTF-8 bytes
    classes: tuple[str, ...]


def write_index(folder: Path, scanned: Iterable[ScannedShard], classes: Sequence[str]) -> None:
    """Write members.npy, then index.json, each atomically; the index is valid once index.json is there."""
    scanned = list(scanned)
    folder.mkdir(parents=True, exist_ok=True)
    members = np.concatenate([s.members for s in scanned]) if scanned else np.empty(0, MEMBER)
    members["shard"] = np.repeat(np.arange(len(scanned)), [len(s.members) for s in scanned])
    keys = np.array([key for s in scanned for key in s.keys], dtype=np.bytes_)
    for name, array in zip(ARRAYS, (members, keys), strict=True):
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


def read_index(folder: Path) -> IndexFile:
    """Read an index; its arrays are mapped, so that the processes of a machine share them.

    Raises:
        UserError: damaged, of a newer format, or not Umbel's.
    """
    index = read_json(folder / "index.json", "the index")
    try:
        members, keys = (_map_array(folder / name) for name in ARRAYS)
        rows: dict[str, dict[str, Any]] = {}
        first = 0
        for number, row in enumerate(index["shards"]):
            fields = {name: row[name] for name in ("split", "count", "bytes", "sha256")}
            if Path(row["name"]).name != row["name"]:
                raise ValueError(f"{row['name']} is not the name of a file")
            split_of(Path(row["name"]))
            rows[row["name"]] = fields | {"number": number, "first": first}
            first += row["count"]
        if members.dtype != MEMBER or not len(members) == len(keys) == first:
            raise ValueError("its parts do not fit together")
        _check_members(members, list(rows.values()))
        return IndexFile(rows=rows, members=members, keys=keys, classes=tuple(index["classes"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the index in {folder} is damaged ({error}): delete its index.json to have it made anew."
        ) from error


def _map_array(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path.name} is missing or no array") from error
    return array


def _check_members(members: np.ndarray, rows: Sequence[dict[str, Any]]) -> None:
    """Every member must lie in its shard: a reader would ask for what is not there, or for more than the memory."""
    end = np.repeat([row["bytes"] for row in rows], [row["count"] for row in rows])
    for kind in ("jpg", "json", "txt"):
        offset, length = members[f"{kind}_offset"], members[f"{kind}_bytes"]
        if ((offset < 0) | (length < 0) | (offset > end - length)).any():
            raise ValueError("it names members outside their shards")


def index_cache(state: Sequence[object]) -> Path:
    """Where the index of shards from elsewhere is kept; another place as soon as their state changes."""
    return cache_root() / "index" / hashlib.sha256(repr(state).encode()).hexdigest()[:24]


def with_bar(places: Sequence[Place]) -> Iterable[Place]:
    """Show progress over shards; a first look at many of them takes a while."""
    with Bar("indexing shards", len(places)) as bar:
        for place in places:
            yield place
            bar.advance()
