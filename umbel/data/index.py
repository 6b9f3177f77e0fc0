"""Opening a set of shards through its index: from a folder, a brace pattern or URLs.

A folder that Umbel writes has an index; for shards from elsewhere the same is computed on first use and kept in the
user's cache, never beside their files. With it, any sample is one seek (POSIX pread).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand

from umbel.data.index_file import index_cache, parse_classes, read_index, with_bar, write_index
from umbel.data.remote import is_url
from umbel.data.remote_index import open_urls
from umbel.data.scan import SHARD_NAME, scan_shard, split_of
from umbel.data.shard_cache import GIB, ShardCache, cache_root
from umbel.data.shard_set import ShardSet, concatenate, pick
from umbel.run import UserError

__all__ = ["CACHE_GIB", "PRETRAINING_SPLITS", "ShardSet", "find_shards", "open_shards", "read_classes"]

PRETRAINING_SPLITS = ("train", "unlabeled")
CACHE_GIB = 50.0


def find_shards(data: str) -> list[Path] | list[str]:
    """What DATA names: the tar files of a folder, one file or a brace pattern, or URLs; [] if it names no shards.

    Raises:
        UserError: unbalanced braces, or a shard that is not there or not a file.
    """
    if is_url(data):
        return _expand(data)
    path = Path(data)
    if path.is_dir():
        paths = sorted(file for file in path.iterdir() if SHARD_NAME.fullmatch(file.name))
        for file in paths:
            if not file.is_file():  # reading a FIFO would wait for ever
                raise UserError(f"shard {file} is not a file: move it elsewhere.")
        return paths
    if path.suffix == ".tar" or "{" in data:
        paths = [Path(name) for name in _expand(data)]
        missing = [str(name) for name in paths if not name.is_file()]
        if missing:
            raise UserError(f"{missing[0]}: there is no such shard, or it is not a file.")
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
        parts = open_urls(_expand(data), cache, allow_pipe=allow_pipe)
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


def read_classes(folder: Path) -> tuple[str, ...]:
    """The class names of a folder of shards; () where it has no classes.txt.

    Raises:
        UserError: it is not UTF-8.
    """
    path = folder / "classes.txt"
    return parse_classes(path.read_bytes(), str(path)) if path.is_file() else ()


def _open_folder(folder: Path, paths: Sequence[Path], whole: bool) -> ShardSet:
    """Open shards of one folder; `whole`: all that its index lists must be there."""
    where = folder
    if not (folder / "index.json").is_file():
        told = [folder / "classes.txt"] if (folder / "classes.txt").is_file() else []
        where = index_cache([(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in [*paths, *told]])
        if not (where / "index.json").is_file():
            write_index(where, [scan_shard(path) for path in with_bar(paths)], classes=read_classes(folder))
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
    return pick(index, [(path.name, path, None) for path in paths])
