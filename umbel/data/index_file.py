"""The files of an index: index.json (shards, splits, classes), members.npy and keys.npy, in shard order."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from umbel.data.scan import LABELS, MEMBER, SHARD_NAME, ScannedShard, split_of
from umbel.data.shard_cache import cache_root
from umbel.run import Bar, UserError, read_json, write_atomic

Place = TypeVar("Place", Path, str)
ARRAYS = ("members.npy", "keys.npy")
KEYS_AT_A_TIME = 1 << 16


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


def read_index(folder: Path, *, url: str | None = None) -> IndexFile:
    """Read an index; its arrays are mapped, so that the processes of a machine share them.

    It may come from anywhere: all that its readers rely on is checked here.

    Args:
        url: of the folder that it was fetched from, for the error.

    Raises:
        UserError: damaged, of a newer format, or not Umbel's.
    """
    index = read_json(folder / "index.json", "the index")
    try:
        classes = index["classes"]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("its classes are no list of names")
        members, keys = (_map_array(folder / name) for name in ARRAYS)
        rows: dict[str, dict[str, Any]] = {}
        first = 0
        for number, row in enumerate(index["shards"]):
            fields = {name: row[name] for name in ("split", "count", "bytes", "sha256")}
            _check_row(row, rows)
            rows[row["name"]] = fields | {"number": number, "first": first}
            first += row["count"]
        if members.dtype != MEMBER or keys.dtype.kind != "S" or not members.shape == keys.shape == (first,):
            raise ValueError("its parts do not fit together")
        _check_members(members, list(rows.values()))
        _check_keys(keys)
        return IndexFile(rows=rows, members=members, keys=keys, classes=tuple(classes))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        if url is not None:
            raise UserError(
                f"the index {url}/index.json is damaged ({error}): run the command again, or copy it there anew."
            ) from error
        raise UserError(
            f"the index in {folder} is damaged ({error}): delete its index.json to have it made anew."
        ) from error


def parse_classes(content: bytes, place: str) -> tuple[str, ...]:
    """The class names in the content of a classes.txt: line n names label n.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 text ({error}): save it as UTF-8.") from error
    # Not splitlines(), which also parts a name at U+2028 and the like: labels would shift.
    lines = text.removesuffix("\n").split("\n")
    return tuple(line.removesuffix("\r") for line in lines) if text else ()


def _map_array(path: Path) -> np.ndarray:
    try:
        if not path.is_file():  # reading a FIFO would wait for ever
            raise FileNotFoundError(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise ValueError(f"{path.name} is missing or no array") from error
    return array


def _check_row(row: dict[str, Any], others: Container[str]) -> None:
    """What index.json tells of a shard must be of its kind."""
    name, sha256 = row["name"], row["sha256"]
    if not isinstance(name, str) or SHARD_NAME.fullmatch(name) is None:
        raise ValueError(f"{name} is not the name of a shard")
    if name in others:
        raise ValueError(f"it lists {name} twice")
    if row["split"] != split_of(Path(name)):
        raise ValueError(f"it gives {name} another split")
    if not all(type(row[field]) is int and 0 <= row[field] < 2**62 for field in ("count", "bytes")):
        raise ValueError(f"it gives {name} a size that is no number from 0")
    if not (sha256 is None or isinstance(sha256, str)):
        raise ValueError(f"it gives {name} a sum that is no text")


def _check_members(members: np.ndarray, rows: Sequence[dict[str, Any]]) -> None:
    """Every member must lie in its shard: a reader would ask for what is not there, or for more than the memory."""
    counts = [row["count"] for row in rows]
    if (members["shard"] != np.repeat(np.arange(len(rows)), counts)).any():
        raise ValueError("it gives samples to other shards than they lie in")
    if ((members["label"] < -1) | (members["label"] >= LABELS)).any():
        raise ValueError(f"it has labels that lie not between 0 and {LABELS - 1}, nor are -1")
    end = np.repeat([row["bytes"] for row in rows], counts)
    for kind in ("jpg", "json", "txt"):
        offset, length = members[f"{kind}_offset"], members[f"{kind}_bytes"]
        if ((offset < 0) | (length < 0) | (offset > end - length)).any():
            raise ValueError("it names members outside their shards")


def _check_keys(keys: np.ndarray) -> None:
    """Every key must be UTF-8, as messages and tables show it."""
    for first in range(0, len(keys), KEYS_AT_A_TIME):
        part = np.ascontiguousarray(keys[first : first + KEYS_AT_A_TIME])
        if part.view(np.uint8).max() < 0x80:
            continue
        for number, key in enumerate(part.tolist(), first):
            try:
                key.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"the key of sample {number} is not UTF-8") from error


def index_cache(state: Sequence[object]) -> Path:
    """Where the index of shards from elsewhere is kept; another place as soon as their state changes."""
    return cache_root() / "index" / hashlib.sha256(repr(state).encode()).hexdigest()[:24]


def with_bar(places: Sequence[Place]) -> Iterable[Place]:
    """Show progress over shards; a first look at many of them takes a while."""
    with Bar("indexing shards", len(places)) as bar:
        for place in places:
            yield place
            bar.advance()
