"""A set of shards: which samples there are, and the byte offset and length of every member.

A folder that Umbel writes has an index; for shards from elsewhere the same is computed on first use and kept in the
user's cache, never beside their files. With it, any sample is one seek (POSIX pread).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from braceexpand import braceexpand

from umbel.data.index_file import ARRAYS, IndexFile, read_index, write_index
from umbel.data.order import Mix
from umbel.data.remote import AbsentError, check_url, download, is_url
from umbel.data.scan import SHARD_NAME, ScannedShard, Shard, scan_shard, split_of
from umbel.data.shard_cache import GIB, ShardCache, cache_root
from umbel.data.unreadable import retried
from umbel.run import Bar, UserError, say, write_atomic

Place = TypeVar("Place", Path, str)
PRETRAINING_SPLITS = ("train", "unlabeled")
CACHE_GIB = 50.0


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
        return str(first.path.parent) if first.url is None else first.url.rpartition("/")[0]

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


def find_shards(data: str) -> list[Path] | list[str]:
    """What DATA names: the tar files of a folder, one file or a brace pattern, or URLs; [] if it names no shards.

    Raises:
        UserError: unbalanced braces, or a file that is not there.
    """
    if is_url(data):
        return _expand(data)
    path = Path(data)
    if path.is_dir():
        return sorted(file for file in path.iterdir() if SHARD_NAME.fullmatch(file.name))
    if path.suffix == ".tar" or "{" in data:
        paths = [Path(name) for name in _expand(data)]
        missing = [str(name) for name in paths if not name.is_file()]
        if missing:
            raise UserError(f"{missing[0]}: there is no such shard.")
        return paths
    return []


def _expand(data: str) -> list[str]:
    try:
        return list(braceexpand(data))
    except ValueError as error:  # UnbalancedBracesError
        raise UserError(f"{data}: its braces are not balanced.") from error


def open_shards(data: str, *, cache_gib: float = CACHE_GIB, allow_pipe: bool = False) -> ShardSet:
    """Open a set of shards through its index, which is computed where it is missing.

    Args:
        data: a folder, a shard, a brace pattern, or a URL of either (a folder's URL needs its index.json).
        cache_gib: disk space for remote shards.
        allow_pipe: let `pipe:` URLs run their shell commands.

    Raises:
        UserError: no shards, a shard that is cut off or differs from its index, labels without a class name, or a URL
            that cannot be fetched.
    """
    if is_url(data):
        cache = ShardCache(folder=cache_root() / "shards", limit=int(cache_gib * GIB))
        urls = _expand(data)
        for url in urls:
            check_url(url, allow_pipe=allow_pipe)
        parts = [_open_urls(folder, group, cache) for folder, group in _by_folder(urls).items()]
    else:
        paths = [Path(path) for path in find_shards(data)]
        if not paths:
            raise UserError(f"{data}: there are no shards (<split>-NNNNNN.tar) here.")
        for path in paths:
            split_of(path)
        folders = sorted({path.parent for path in paths})
        whole = Path(data).is_dir()
        parts = [_open_folder(folder, [p for p in paths if p.parent == folder], whole) for folder in folders]
    if len({part.classes for part in parts}) > 1:
        raise UserError(f"{data}: the folders' classes.txt differ, so their labels do not mean the same.")
    shards = concatenate(parts)
    if not len(shards):
        raise UserError(f"{data}: the shards hold no photographs (<key>.jpg).")
    return shards


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


def read_classes(folder: Path) -> tuple[str, ...]:
    """The class names of a folder of shards; () where it has no classes.txt."""
    path = folder / "classes.txt"
    return tuple(path.read_text().splitlines()) if path.is_file() else ()


def _open_folder(folder: Path, paths: Sequence[Path], whole: bool) -> ShardSet:
    """Open shards of one folder; `whole`: all that its index lists must be there."""
    where = folder
    if not (folder / "index.json").is_file():
        told = [folder / "classes.txt"] if (folder / "classes.txt").is_file() else []
        where = _cache_folder([(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in [*paths, *told]])
        if not (where / "index.json").is_file():
            write_index(where, [scan_shard(path) for path in _with_bar(paths)], classes=read_classes(folder))
    index = read_index(where)
    for path in paths:
        if path.name not in index.rows:
            raise UserError(f"shard {path} is not in {where / 'index.json'}: move it elsewhere, or delete the index.")
        size, listed = path.stat().st_size, index.rows[path.name]["bytes"]
        if size != listed:
            state = "cut off" if size < listed else "longer than it was"
            raise UserError(f"shard {path} is {state}: {size} bytes, where its index has {listed}.")
    lacking = set(index.rows) - {path.name for path in paths}
    if lacking and whole:
        raise UserError(f"shard {folder / min(lacking)} is missing; {where / 'index.json'} lists it.")
    return _pick(index, [(path.name, path, None) for path in paths])


def _pick(index: IndexFile, files: Sequence[tuple[str, Path, str | None]]) -> ShardSet:
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


def _by_folder(urls: Sequence[str]) -> dict[str, list[str]]:
    """URLs of shards by what stands in front of their names; a folder's URL stands for all that its index lists."""
    groups: dict[str, list[str]] = {}
    for url in urls:
        if url.startswith("pipe:"):
            groups.setdefault("pipe:", []).append(url)
        elif url.endswith(".tar"):
            groups.setdefault(url.rpartition("/")[0], []).append(url)
        else:
            groups.setdefault(url.rstrip("/"), [])
    return groups


def _open_urls(folder: str, urls: Sequence[str], cache: ShardCache) -> ShardSet:
    """Open remote shards: through the index beside them, or fetch and scan them."""
    names = [_name_of(url) for url in urls]
    if len(set(names)) < len(names):
        raise UserError(f"{urls[0]}: two of the URLs name the same shard: give each a name of its own.")
    where = None if folder == "pipe:" else _fetch_index(folder)
    if where is None:
        if not urls:
            raise UserError(f"{folder} gives no index.json: give a brace pattern of shards, or see that it is there.")
        where = _cache_folder(list(urls))
        if not (where / "index.json").is_file():
            classes = None if folder == "pipe:" else _fetch(f"{folder}/classes.txt")
            scanned = [_fetch_and_scan(url, name, cache) for url, name in zip(_with_bar(urls), names, strict=True)]
            write_index(where, scanned, classes=(classes or b"").decode("utf-8", "replace").splitlines())
    index = read_index(where)
    if not urls:
        names = list(index.rows)
        urls = [f"{folder}/{name}" for name in names]
    for url, name in zip(urls, names, strict=True):
        if name not in index.rows:
            raise UserError(f"shard {url} is not in the index beside it: correct the pattern.")
    files = [(name, cache.path(url, name), url) for url, name in zip(urls, names, strict=True)]
    return dataclasses.replace(_pick(index, files), cache=cache)


def _name_of(url: str) -> str:
    """The shard's name in a URL, or the last one in a pipe's command."""
    if url.startswith("pipe:"):
        found = [match[0] for match in re.finditer(rf"(?<![\w-]){SHARD_NAME.pattern}", url)]
        name = found[-1] if found else url
    else:
        name = url.rpartition("/")[2]
    split_of(Path(name))
    return name


def _fetch_and_scan(url: str, name: str, cache: ShardCache) -> ScannedShard:
    path = cache.path(url, name)

    def fetch_and_scan() -> ScannedShard:
        sha256 = cache.fetch(url, path, size=None, sha256=None, progress=lambda: None)
        try:
            return scan_shard(path, sha256)
        except UserError as error:
            path.unlink(missing_ok=True)  # the next try must not find it
            raise UserError(str(error).replace(str(path), url)) from error

    return retried(fetch_and_scan, url)


def _fetch_index(folder: str) -> Path | None:
    """Bring a folder's index here where it is new; None where the folder has none."""
    text = _fetch(f"{folder}/index.json")
    if text is None:
        say(f"{folder} gives no index.json: its shards are fetched and scanned, once.")
        return None
    where = _cache_folder([folder, text])
    if not (where / "index.json").is_file():
        where.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            content = _fetch(f"{folder}/{name}")
            if content is None:
                raise UserError(f"{folder} gives index.json without {name}: copy {', '.join(ARRAYS)} there too.")
            write_atomic(where / name, content)
        write_atomic(where / "index.json", text)
    return where


def _fetch(url: str) -> bytes | None:
    """What a URL gives; None where there is nothing."""

    def fetch() -> bytes | None:
        content = io.BytesIO()
        try:
            download(url, content, lambda: None)
        except AbsentError:
            return None
        return content.getvalue()

    return retried(fetch, url)


def _cache_folder(state: Sequence[object]) -> Path:
    """Where the index of shards from elsewhere is kept; another place as soon as their state changes."""
    return cache_root() / "index" / hashlib.sha256(repr(state).encode()).hexdigest()[:24]


def _with_bar(places: Sequence[Place]) -> Iterable[Place]:
    """Show progress over shards; a first look at many of them takes a while."""
    with Bar("indexing shards", len(places)) as bar:
        for place in places:
            yield place
            bar.advance()
