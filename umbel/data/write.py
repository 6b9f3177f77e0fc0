"""Writing a folder of shards: a plan of samples, one process a shard, an index at the end.

Every shard is a pure function of its part of the plan, so the bytes do not depend on the number of workers, and an
interrupted folder is continued shard by shard. webdataset names the members and lays out the tar.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import webdataset

from umbel.data.index_file import write_index
from umbel.data.scan import scan_shard
from umbel.run import Bar, UserError, move_aside, sync_file, sync_folder, write_atomic


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


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What one shard will hold: `items` are handed one by one to the maker of samples."""

    name: str
    items: tuple[Any, ...]


MakeSample = Callable[[Any], Sample | str]
"""Makes a sample from an item, or says in words why it cannot (a bad photograph)."""


def plan_shards(split: str, items: Sequence[Any], shard_size: int) -> list[ShardPlan]:
    """Cut a split's items into shards of `shard_size` samples."""
    return [
        ShardPlan(name=f"{split}-{number:06d}.tar", items=tuple(items[first : first + shard_size]))
        for number, first in enumerate(range(0, len(items), shard_size))
    ]


def write_shards(
    out: Path,
    plan: Sequence[ShardPlan],
    make: MakeSample,
    *,
    source: dict[str, Any],
    classes: Sequence[str],
    workers: int,
    max_bad: float,
    force: bool,
    title: str,
) -> dict[str, str]:
    """Write the planned shards into `out`, with classes.txt, index.json and bad.json.

    The same source continues an interrupted folder and leaves a finished one alone.

    Args:
        source: what the shards are made from (settings and a hash of the input), to recognise the folder by.
        max_bad: the share of items that may be bad photographs.
        force: move a folder of another source aside.

    Returns:
        Bad items: name -> reason.

    Raises:
        UserError: `out` holds something else, or too many photographs are bad.
    """
    bad_file = out / "bad.json"
    if _prepare(out, {"format": 1} | source, force):
        return dict(json.loads(bad_file.read_text()))
    total = sum(len(shard.items) for shard in plan)
    bad: dict[str, str] = {}
    done = [s for s in plan if (out / s.name).is_file() and (out / f".{s.name}.bad").is_file()]
    todo = [shard for shard in plan if shard not in done]
    for shard in done:
        bad |= json.loads((out / f".{shard.name}.bad").read_text())
    _refuse_too_many(bad, max_bad, total)
    with Bar(title, total, done=sum(len(shard.items) for shard in done)) as bar:
        for shard, found in _write_all(out, todo, make, workers):
            bad |= found
            _refuse_too_many(bad, max_bad, total)
            bar.advance(len(shard.items))
    if classes:
        write_atomic(out / "classes.txt", "\n".join(classes) + "\n")
    write_atomic(bad_file, json.dumps(dict(sorted(bad.items())), indent=1, ensure_ascii=False) + "\n")
    written = [out / shard.name for shard in plan]
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in written]
    write_index(out, [scan_shard(p, s) for p, s in zip(written, sums, strict=True)], classes)
    for shard in plan:
        (out / f".{shard.name}.bad").unlink(missing_ok=True)
    return bad


def _refuse_too_many(bad: dict[str, str], max_bad: float, total: int) -> None:
    if len(bad) > max_bad * total or len(bad) == total:
        name, reason = next(iter(bad.items()))
        raise UserError(
            f"{name}: {reason}; {len(bad)} of {total} photographs are bad, more than the allowed share of {max_bad:g} "
            "(max-bad): remove them, or allow more."
        )


def _prepare(out: Path, source: dict[str, Any], force: bool) -> bool:
    """Make `out` ready for writing; True if it holds these very shards already."""
    told = out / "source.json"
    text = json.dumps(source, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        finished = (out / "index.json").is_file()
        if told.is_file() and told.read_text() == text:
            return finished
        if told.is_file() and not finished:
            # Given up before it was done, and the source has changed since: nothing of it is of use.
            for path in [
                p for name in ("*.tar", ".*.bad", ".*.tmp", "classes.txt", "bad.json") for p in out.glob(name)
            ]:
                path.unlink()
        elif not force:
            what = "shards made from another source or with other settings" if told.is_file() else "other files"
            raise UserError(f"{out} holds {what}: choose another --out, or --force to move it aside.")
        else:
            move_aside(out)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(told, text)
    return False


def _write_all(
    out: Path, plan: Sequence[ShardPlan], make: MakeSample, workers: int
) -> Iterator[tuple[ShardPlan, dict[str, str]]]:
    """Write shards in this process or several; yields each with its bad items when it is there."""
    if workers <= 1 or len(plan) <= 1:
        for shard in plan:
            yield shard, _write_shard(out, shard, make)
        return
    # Spawned, not forked: the parent may already run threads (torch, a progress bar).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(plan)), mp_context=context) as pool:
        waiting = {pool.submit(_write_shard, out, shard, make): shard for shard in plan}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_shard(out: Path, shard: ShardPlan, make: MakeSample) -> dict[str, str]:
    """Write one shard atomically; returns its bad items."""
    partial = out / f".{shard.name}.tmp"
    bad: dict[str, str] = {}
    # mtime 0 and no encoder: the bytes are a function of the samples alone.
    with partial.open("wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0.0) as tar:
        for item in shard.items:
            sample = make(item)
            if isinstance(sample, str):
                bad[str(item)] = sample
            else:
                tar.write(sample.members())
    sync_file(partial)
    write_atomic(out / f".{shard.name}.bad", json.dumps(bad, ensure_ascii=False))
    partial.replace(out / shard.name)
    sync_folder(out)
    return bad
