"""Labels from a file, joined to photographs by observation: what `umbel votes aggregate` writes, or any such table."""

from __future__ import annotations

import array
import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from umbel.data.label_text import identity, natural
from umbel.data.names import Names
from umbel.data.photograph_set import LazyRows, Photograph, PhotographSet, observation_of
from umbel.data.table import read_table
from umbel.run import UserError, say

FILES = ("labels.parquet", "labels.csv")
NUMBERS = ("conf", "acc", "weight")
"""Columns of numbers that go into the samples' JSON."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A file of labels, one row an observation."""

    names: Names
    labels: tuple[str, ...]
    """The distinct labels of valid observations, numbers in their order, else sorted as text."""
    codes: np.ndarray  # (N,) int32 into `labels`; -1: no label, or not a valid one
    valid: np.ndarray  # (N,) bool
    numbers: Mapping[str, np.ndarray]  # (N,) float64 each, NaN where there is none
    fingerprint: str


def read_labels(path: Path) -> Labels:
    """Read a CSV or Parquet file of labels, or those in the folder that `umbel votes aggregate` made.

    Raises:
        UserError: no such file, a missing column, a value that is none, an observation twice, a newer format.
    """
    if path.is_dir():
        there = [path / name for name in FILES if (path / name).is_file()]
        if not there:
            raise UserError(f"--labels {path} holds neither {' nor '.join(FILES)}: give what `umbel votes` made.")
        path = there[0]
    if not path.is_file():
        raise UserError(f"--labels {path}: there is no such file.")
    observations: list[str] = []
    codes, valid = array.array("i"), array.array("b")
    numbers = {name: array.array("d") for name in NUMBERS}
    seen: dict[str, int] = {}
    for line, row in enumerate(_rows(path), start=1):
        try:
            is_valid = _truth(row.get("valid"))
            label = identity(row["label"])
            observations.append(identity(row["observation"]) or "")
            valid.append(is_valid)
            codes.append(seen.setdefault(label, len(seen)) if label is not None and is_valid else -1)
            for name, column in numbers.items():
                column.append(_number(row.get(name)))
        except ValueError as error:
            raise UserError(f"--labels {path}, row {line}: {error}.") from error
    names = Names(observations, what=f"--labels {path}: observation")
    order = sorted(seen, key=natural)
    place = np.full(len(seen) + 1, -1, dtype=np.int32)  # the last one is what -1 finds
    place[[seen[label] for label in order]] = np.arange(len(order))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:24]
    return Labels(
        names=names,
        labels=tuple(order),
        codes=place[np.frombuffer(codes, dtype=np.int32)] if codes else np.empty(0, dtype=np.int32),
        valid=np.array(valid, dtype=bool),
        numbers={name: np.array(column) for name, column in numbers.items() if not np.isnan(column).all()},
        fingerprint=digest,
    )


def join_labels(photographs: PhotographSet, labels: Labels) -> PhotographSet:
    """Give photographs the labels of their observations and say how many have one.

    The source's classes stay where they name all labels; otherwise the labels are the classes.

    Raises:
        UserError: the file knows none of the photographs, or a label is the name of two classes.
    """
    matches = {split: _match(rows, labels.names) for split, rows in photographs.splits.items()}
    chosen = max(IDENTITIES, key=lambda name: sum(int((match[name] >= 0).sum()) for match in matches.values()))
    found = {split: match[chosen] for split, match in matches.items()}
    known = np.concatenate([rows[rows >= 0] for rows in found.values()])
    if not len(known):
        raise UserError("--labels: its observations are none of the photographs (by observation, image, name or key).")
    labeled, invalid = int((labels.codes[known] >= 0).sum()), int((~labels.valid[known]).sum())
    say(
        f"labels, joined by {chosen}: {labeled:,} of {len(photographs):,} photographs have one, {invalid:,} have "
        f"one that is not valid, {len(known) - labeled - invalid:,} are known without one, "
        f"{len(photographs) - len(known):,} are unknown to the file; those without stay, unlabeled."
    )
    classes = photographs.classes if set(labels.labels) <= set(photographs.classes) else labels.labels
    number = {name: place for place, name in enumerate(classes)}
    twice = [name for name, count in Counter(classes).items() if count > 1 and name in labels.labels]
    if twice:
        raise UserError(f"--labels: two classes are called '{twice[0]}', so that label does not tell which is meant.")

    def relabel(rows: Sequence[Photograph], found: np.ndarray) -> LazyRows:
        return LazyRows(len(rows), lambda row: _relabeled(rows[row], labels, int(found[row]), number))

    splits = {split: relabel(rows, found[split]) for split, rows in photographs.splits.items()}
    return dataclasses.replace(photographs, splits=splits, classes=classes)


def _relabeled(photograph: Photograph, labels: Labels, row: int, number: Mapping[str, int]) -> Photograph:
    """A photograph with what the file's row says of its observation; row -1: nothing."""
    if row < 0:
        return dataclasses.replace(photograph, label=None, class_name=None)
    told: dict[str, object] = {"valid": bool(labels.valid[row])}
    told |= {name: float(column[row]) for name, column in labels.numbers.items() if not math.isnan(column[row])}
    name = labels.labels[labels.codes[row]] if labels.codes[row] >= 0 else None
    return dataclasses.replace(
        photograph,
        label=None if name is None else number[name],
        class_name=name,
        metadata=dict(photograph.metadata) | told,
    )


IDENTITIES: dict[str, Callable[[Photograph], object]] = {
    "observation id": lambda photograph: observation_of(photograph.metadata),
    "image id": lambda photograph: photograph.metadata.get("image_id"),
    "file name": lambda photograph: PurePosixPath(photograph.path).stem,
    "key": lambda photograph: photograph.key,
}
"""What an observation may be called by. One holds for all photographs: the number of an image may be that of another's
observation. Of equals the first is taken, since an observation may have several photographs."""


def _match(rows: Sequence[Photograph], names: Names) -> dict[str, np.ndarray]:
    """For each identity, the file's row of every photograph (N,), -1 where it knows none."""
    found = {name: np.full(len(rows), -1, dtype=np.int64) for name in IDENTITIES}
    for place, photograph in enumerate(rows):
        for name, told in IDENTITIES.items():
            row = names.row(identity(told(photograph)) or "")
            if row is not None:
                found[name][place] = row
    return found


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a table, one at a time.

    Raises:
        UserError: not such a table, or without the columns that are needed.
    """
    if path.suffix.lower() not in (".parquet", ".pq"):
        yield from read_table(path, needed=("observation", "label"))
        return
    from pyarrow import ArrowException, parquet  # processes that convert photographs do without

    try:
        with parquet.ParquetFile(path) as file:
            _check_format(path, (file.schema_arrow.metadata or {}).get(b"umbel"))
            there = file.schema_arrow.names
            columns = [name for name in ("observation", "label", "valid", *NUMBERS) if name in there]
            missing = {"observation", "label"} - set(columns)
            if missing:
                raise UserError(f"--labels {path} has no column '{min(missing)}'; it has: {', '.join(there)}.")
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"--labels {path} is no Parquet file that can be read ({error}).") from error


def _check_format(path: Path, told: bytes | None) -> None:
    """Refuse what another Umbel wrote; a table without a word of Umbel's is anybody's."""
    try:
        found = 1 if told is None else json.loads(told)["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"--labels {path}: its metadata 'umbel' tells no format: it was not written by Umbel."
        ) from error
    if found != 1:
        raise UserError(f"--labels {path} has format {found}; this Umbel reads format 1: upgrade Umbel.")


def _truth(value: object) -> bool:
    """A column `valid`; where nothing is told, as in a table without one, it is."""
    words = {"": True, "true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    text = "" if value is None or value != value else str(value).strip().lower()
    if text not in words:
        raise ValueError(f"valid is true or false, not '{value}'")
    return words[text]


def _number(value: object) -> float:
    try:
        return math.nan if value in (None, "") else float(str(value))
    except ValueError as error:
        raise ValueError(f"'{value}' is no number") from error
