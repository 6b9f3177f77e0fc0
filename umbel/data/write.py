"""Writing a folder of shards from a plan of items: converted by many processes, appended by one, indexed at the end.

Items are written in the order in which they arrive, so the bytes depend neither on the number of workers nor on
interruptions. webdataset names the members and lays out the tar.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from umbel.data.convert import MakeSample, convert_in_order
from umbel.data.index_file import ARRAYS, write_index
from umbel.data.plan import SplitPlan, items_of
from umbel.data.scan import ScannedShard, scan_shard
from umbel.data.stream import DamagedArchiveError
from umbel.data.unfinished import JOURNAL, UnfinishedShards
from umbel.run import Bar, UserError, move_aside, write_atomic

LOOK_EVERY = 1000
"""After so many items the share of bad ones is looked at: the first one says little of how many there are."""
WRITTEN = ("source.json", "classes.txt", "bad.json", "licenses.json", "index.json", *ARRAYS, JOURNAL)
"""Files that are written beside the shards, each by way of one that a kill may leave behind."""
TALLIED = {"license": "licenses", "rights_holder": "rights_holders"}
"""Fields of a sample's JSON that are counted over all samples, and their names in licenses.json."""


def write_shards(
    out: Path,
    plan: Sequence[SplitPlan],
    make: MakeSample,
    *,
    source: dict[str, Any],
    classes: Sequence[str],
    workers: int,
    max_bad: float,
    force: bool,
    title: str,
) -> dict[str, str]:
    """Write the planned shards into `out`, with classes.txt, index.json, bad.json and, where told, licenses.json.

    The same source continues an interrupted folder and leaves a finished one alone.

    Args:
        source: what the shards are made from (settings and a hash of the input), to recognise the folder by.
        max_bad: the share of items that may be bad photographs.
        force: move a folder of another source aside.

    Returns:
        Bad items: name -> reason.

    Raises:
        UserError: `out` holds something else or is in use, or too many photographs are bad.
    """
    bad_file = out / "bad.json"
    with _prepare(out, {"format": 1} | source, force) as finished:
        if finished:
            return dict(json.loads(bad_file.read_text()))
        counts = {name: count for split in plan for name, count in split.shards().items()}
        bad = _convert_all(out, plan, counts, make, workers=workers, max_bad=max_bad, title=title)
        if classes:
            write_atomic(out / "classes.txt", "\n".join(classes) + "\n")
        write_atomic(bad_file, json.dumps(dict(sorted(bad.items())), indent=1, ensure_ascii=False) + "\n")
        _index(out, list(counts), classes)
        (out / JOURNAL).unlink()
        return bad


def _convert_all(
    out: Path,
    plan: Sequence[SplitPlan],
    counts: dict[str, int],
    make: MakeSample,
    *,
    workers: int,
    max_bad: float,
    title: str,
) -> dict[str, str]:
    """Convert what the journal does not tell of; returns all bad items."""
    total = sum(counts.values())
    shards = UnfinishedShards(out, counts)
    _refuse_too_many(out, shards.bad, max_bad, total)
    workers = min(workers, total - shards.taken)
    converted = contextlib.closing(convert_in_order(items_of(plan, shards.taken), make, workers))
    with Bar(title, total, done=shards.taken) as bar, converted as results:
        try:
            for result in results:
                shards.add(result)
                if shards.taken % LOOK_EVERY == 0 or shards.taken == total:
                    _refuse_too_many(out, shards.bad, max_bad, total)
                bar.advance()
        except DamagedArchiveError:
            shards.discard()
            raise
        except (UserError, KeyboardInterrupt):
            shards.save_if_whole()
            raise
    shards.save()
    return shards.bad


def _refuse_too_many(out: Path, bad: dict[str, str], max_bad: float, total: int) -> None:
    if len(bad) > max_bad * total or len(bad) == total:
        name, reason = next(iter(bad.items()))
        raise UserError(
            f"{name}: {reason}; {len(bad)} of {total} photographs are bad, more than the allowed share of {max_bad:g} "
            f"(max-bad): allow more and it goes on, or remove them, and {out} with them, to begin anew."
        )


@contextlib.contextmanager
def _prepare(out: Path, source: dict[str, Any], force: bool) -> Iterator[bool]:
    """Make `out` ready for writing and keep other processes out; yields True if it holds these very shards already."""
    source = json.loads(json.dumps(source))  # as it is read again: lists for tuples
    if not force:
        _refuse_something_else(out, source)
    elif _something_else(out, source):
        with _locked(out):
            move_aside(out)
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        _refuse_something_else(out, source)  # another process may have been faster
        for path in _leftovers(out):
            path.unlink()
        finished = (out / "index.json").is_file()
        if _told(out) != source:
            write_atomic(out / "source.json", json.dumps(source, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        elif finished:
            (out / JOURNAL).unlink(missing_ok=True)  # left by a kill behind the last step
        yield finished


def _refuse_something_else(out: Path, source: dict[str, Any]) -> None:
    something = _something_else(out, source)
    if something:
        raise UserError(f"{out} holds {something}.")


def _something_else(out: Path, source: dict[str, Any]) -> str | None:
    """What `out` holds, where shards of this source may not be written, and what to do, in words."""
    otherwise = "choose another --out, or --force to move it aside"
    if not out.exists():
        return None
    if not out.is_dir():
        return f"other files: {otherwise}"
    there = set(out.iterdir()) - _leftovers(out)
    told = _told(out)
    if not there or told == source:
        return None
    if told is None:
        return f"other files: {otherwise}"
    if (out / "index.json").is_file():
        return f"shards made from another source or with other settings: {otherwise}"
    if there - {out / "source.json"}:
        return (
            "unfinished shards that were begun from another source or with other settings: delete the folder, or "
            "give `umbel shards make` --force to move it aside"
        )
    return None


def _told(out: Path) -> dict[str, Any] | None:
    """What the shards in a folder are made from; None where its source.json is missing or not Umbel's."""
    try:
        told = json.loads((out / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) and {"format", "source"} <= set(told) else None


def _leftovers(out: Path) -> set[Path]:
    """What a killed process left of files that it was about to write: of no use to anybody."""
    return {path for name in WRITTEN for path in out.glob(f".{name}.[0-9]*.tmp")}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into a folder (a lock on the folder itself leaves no file behind)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder} is in use by another process: wait for it, or choose another --out.") from error
        yield
    finally:
        os.close(descriptor)


def _index(out: Path, names: Sequence[str], classes: Sequence[str]) -> None:
    """Read every shard once: its hash, its members' places, and whose photographs they are."""
    tallies: dict[str, Counter[str]] = {field: Counter() for field in TALLIED}
    scanned: list[ScannedShard] = []
    with Bar("indexing shards", len(names)) as bar:
        for name in names:
            data = (out / name).read_bytes()
            shard = scan_shard(out / name, hashlib.sha256(data).hexdigest())
            scanned.append(shard)
            for offset, length in shard.members[["json_offset", "json_bytes"]].tolist():
                metadata = json.loads(data[offset : offset + length] or b"{}")
                for field, tally in tallies.items():
                    if metadata.get(field) is not None:
                        tally[str(metadata[field])] += 1
            bar.advance()
    if any(tallies.values()):
        told = {TALLIED[field]: dict(tally.most_common()) for field, tally in tallies.items()}
        write_atomic(out / "licenses.json", json.dumps({"format": 1} | told, indent=1, ensure_ascii=False) + "\n")
    write_index(out, scanned, classes)
