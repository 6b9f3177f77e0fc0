"""Remote shards as a set: through the index beside them, or fetched and scanned once."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from umbel.data.index_file import ARRAYS, IndexFile, index_cache, parse_classes, read_index, with_bar, write_index
from umbel.data.remote import AbsentError, check_url, download, without_query
from umbel.data.scan import SHARD_NAME, ScannedShard, scan_shard, split_of
from umbel.data.shard_cache import ShardCache
from umbel.data.shard_set import ShardSet, pick
from umbel.data.unreadable import retried
from umbel.run import UserError, say, write_atomic


def open_urls(urls: Sequence[str], cache: ShardCache, *, allow_pipe: bool) -> list[ShardSet]:
    """Open remote shards, folder by folder.

    Raises:
        UserError: a URL that must not or cannot be opened, or what it gives is no shard.
    """
    for url in urls:
        check_url(url, allow_pipe=allow_pipe)
    return [_open_folder(folder, group, cache) for folder, group in _by_folder(urls).items()]


def _by_folder(urls: Sequence[str]) -> dict[str, list[str]]:
    """URLs of shards by what stands in front of their names; a folder's URL stands for all that its index lists."""
    groups: dict[str, list[str]] = {}
    for url in urls:
        if url.startswith("pipe:"):
            groups.setdefault("pipe:", []).append(url)
        elif without_query(url).endswith(".tar"):
            groups.setdefault(without_query(url).rpartition("/")[0], []).append(url)
        else:
            groups.setdefault(url.rstrip("/"), [])
    return groups


def _open_folder(folder: str, urls: Sequence[str], cache: ShardCache) -> ShardSet:
    """Open remote shards: through the index beside them, or fetch and scan them."""
    names = [_name_of(url) for url in urls]
    if len(set(names)) < len(names):
        raise UserError(f"{urls[0]}: two of the URLs name the same shard: give each a name of its own.")
    index = None if folder == "pipe:" else _fetch_index(folder)
    if index is None:
        if not urls:
            raise UserError(f"{folder} gives no index.json: give a brace pattern of shards, or see that it is there.")
        where = index_cache(list(urls))
        if not (where / "index.json").is_file():
            place = f"{folder}/classes.txt"
            classes = parse_classes((None if folder == "pipe:" else _fetch(place)) or b"", place)
            scanned = [_fetch_and_scan(url, name, cache) for url, name in zip(with_bar(urls), names, strict=True)]
            write_index(where, scanned, classes=classes)
        index = read_index(where)
    if not urls:
        names = list(index.rows)
        urls = [f"{folder}/{name}" for name in names]
    for url, name in zip(urls, names, strict=True):
        if name not in index.rows:
            raise UserError(f"shard {url} is not in the index beside it: correct the pattern.")
    files = [(name, cache.path(url, name), url) for url, name in zip(urls, names, strict=True)]
    return dataclasses.replace(pick(index, files), cache=cache)


def _name_of(url: str) -> str:
    """The shard's name in a URL, or the last one in a pipe's command."""
    if url.startswith("pipe:"):
        found = [match[0] for match in re.finditer(rf"(?<![\w-]){SHARD_NAME.pattern}", url)]
        name = found[-1] if found else url
    else:
        name = without_query(url).rpartition("/")[2]
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

    return retried(fetch_and_scan, f"shard {url}")


def _fetch_index(folder: str) -> IndexFile | None:
    """A folder's index, fetched where it is not here; None where the folder has none."""
    text = _fetch(f"{folder}/index.json")
    if text is None:
        say(f"{folder} gives no index.json: its shards are fetched and scanned, once.")
        return None
    where = index_cache([folder, text])
    with contextlib.suppress(UserError):  # not here, or damaged by a power cut
        return read_index(where)
    where.mkdir(parents=True, exist_ok=True)
    contents = {"index.json": text} | {name: _fetch_array(folder, name) for name in ARRAYS}
    # Read before it is kept: a transfer that was cut off need not show as one.
    with tempfile.TemporaryDirectory(dir=where) as new:
        for name, content in contents.items():
            (Path(new) / name).write_bytes(content)
        try:
            read_index(Path(new), url=folder)
        except UserError as error:
            raise UserError(str(error).replace(new, folder)) from error
    for name in (*ARRAYS, "index.json"):
        write_atomic(where / name, contents[name])
    return read_index(where)


def _fetch_array(folder: str, name: str) -> bytes:
    content = _fetch(f"{folder}/{name}")
    if content is None:
        raise UserError(f"{folder} gives index.json without {name}: copy {', '.join(ARRAYS)} there too.")
    return content


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
