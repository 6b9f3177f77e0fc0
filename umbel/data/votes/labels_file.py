"""The labels that `umbel votes aggregate` wrote, read again by observation: what shards are labeled from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet

from umbel.data.votes.tables import read_columns, told_as_user_errors
from umbel.data.votes.write import METADATA
from umbel.run import UserError

NAMES = ("labels.parquet", "labels.csv")


class Label(NamedTuple):
    """What votes say of an observation."""

    label: str | None
    """The species; None where the votes gave none."""
    valid: bool
    """Whether it may be trained on."""
    conf: float
    """Weight of the votes for it."""
    acc: float
    """Their share of the weight, 0 to 1."""


def read_labels(path: Path) -> dict[str, Label]:
    """Labels by observation id, as text, in the order of the file.

    Args:
        path: labels.parquet or labels.csv, or the folder that `umbel votes aggregate` made.

    Raises:
        UserError: no such file, not one of labels, of a newer format, or with an observation twice.
    """
    if path.is_dir():
        there = [path / name for name in NAMES if (path / name).is_file()]
        if not there:
            raise UserError(f"{path} holds neither {' nor '.join(NAMES)}: give what `umbel votes aggregate` made.")
        path = there[0]
    if path.suffix.lower() == ".parquet":
        _check_format(path)
    columns = read_columns(path, ("observation", *Label._fields))
    for name in ("observation", "valid", "conf", "acc"):
        if columns[name].null_count:
            raise UserError(f"{path}: {columns[name].null_count} rows have no {name}.")
    rows = zip(*(columns[name].to_pylist() for name in Label._fields), strict=True)
    labels = {
        str(observation): Label(None if label is None else str(label), valid, conf, acc)
        for observation, (label, valid, conf, acc) in zip(columns["observation"].to_pylist(), rows, strict=True)
    }
    if len(labels) < len(columns["observation"]):
        raise UserError(f"{path} holds observations more than once.")
    return labels


def _check_format(path: Path) -> None:
    with told_as_user_errors(path):
        told = (pyarrow.parquet.read_schema(path).metadata or {}).get(METADATA)
    format_ = json.loads(told)["format"] if told else 1
    if format_ != 1:
        raise UserError(f"{path} has format {format_}; this Umbel reads format 1: upgrade Umbel.")
