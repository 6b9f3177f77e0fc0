"""Duplicates in words and as a table: within each split, between splits, and between two sets of shards."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from umbel.data.duplicates import Prints, Repeats, repeats_between, repeats_within
from umbel.data.index import PRETRAINING_SPLITS, ShardSet
from umbel.data.perceptual_hash import FINE_BITS
from umbel.data.survey import Survey
from umbel.run import UserError, say, write_atomic

HEADER = ("key", "split", "repeats_key", "repeats_split", "of", "same_bytes", "bits_that_differ")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The sound photographs of one split of a set."""

    data: str
    """The set's name."""
    split: str
    keys: np.ndarray  # (n,) of bytes
    prints: Prints
    observations: np.ndarray  # (n,) of text, "" where there is none


def parts(data: str, shards: ShardSet, survey: Survey) -> list[Part]:
    """A set split by split, those of pretraining first."""
    split = np.array([shard.split for shard in shards.shards])[shards.members["shard"]]
    names = sorted(set(split.tolist()), key=lambda name: (name not in PRETRAINING_SPLITS, name))
    found = []
    for name in names:
        rows = np.flatnonzero((split == name) & survey.sound)
        found.append(
            Part(
                data=data,
                split=name,
                keys=shards.keys[rows],
                prints=survey.prints(rows),
                observations=survey.observations[rows],
            )
        )
    return found


def report_duplicates(data: Sequence[Part], others: Sequence[Part], *, distance: int, out: Path | None) -> None:
    """Print which photographs repeat others, and write all of them to `out` (CSV).

    Raises:
        UserError: `out` is a file of another kind.
    """
    if out is not None:
        refuse_other(out)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(HEADER)
    total = 0
    for part, other in _pairs(data, others):
        if part is other:
            found, place = repeats_within(part.prints, distance=distance), f"{part.split} that repeat earlier ones"
        else:
            found = repeats_between(part.prints, other.prints, distance=distance)
            where = other.split if any(other is own for own in data) else f"{other.data} ({other.split})"
            place = f"{part.split} also in {where}"
        rows = _rows(found, part, other)
        total += len(rows)
        writer.writerows(rows)
        if rows:
            same = sum(row[5] == "yes" for row in rows)
            say(f"photographs of {place}: {same} byte for byte, {len(rows) - same} nearly.")
        for row in rows[:3]:
            say(f"  {row[0]} is {row[2]} ({row[6]} of {FINE_BITS} bits differ)")
        if part is not other:
            _say_observations(part.observations, other.observations, place)
    if out is not None:
        write_atomic(out, table.getvalue())
        say(f"{out}: {total} repeats.")
    elif not total:
        say("no duplicates.")


def _pairs(data: Sequence[Part], others: Sequence[Part]) -> Iterator[tuple[Part, Part]]:
    """What is compared with what: each split with itself and those before it, then with every split of the others."""
    for number, part in enumerate(data):
        yield part, part
        for earlier in data[:number]:
            yield part, earlier
    for part in data:
        for other in others:
            yield part, other


def _rows(found: Repeats, part: Part, other: Part) -> list[tuple[str, str, str, str, str, str, int]]:
    """The lines of the table, as HEADER names their columns."""
    lines = []
    for photograph, original, differ in zip(found.photograph, found.original, found.distance.tolist(), strict=True):
        key, repeated = bytes(part.keys[photograph]).decode(), bytes(other.keys[original]).decode()
        same = "yes" if differ < 0 else "no"
        lines.append((key, part.split, repeated, other.split, other.data, same, max(differ, 0)))
    return lines


def _say_observations(mine: np.ndarray, theirs: np.ndarray, place: str) -> None:
    """Photographs of one plant on one day are no copies, and yet must not stand on both sides of an evaluation."""
    shared = np.intersect1d(mine[mine != ""], theirs)
    if len(shared):
        count = int(np.isin(mine, shared).sum())
        say(f"observations of {place}: {len(shared)} (photographs of theirs: {count}; the first: {shared[0]}).")


def refuse_other(out: Path) -> None:
    """Keep a table from replacing what is not one; its folder is made.

    Raises:
        UserError: `out` is a folder, or a file that this report did not write.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir() or (out.exists() and not out.read_bytes().startswith(",".join(HEADER).encode())):
        raise UserError(f"{out} is there and is no table of duplicates: choose another --out.")
