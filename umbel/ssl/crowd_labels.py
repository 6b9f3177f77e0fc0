"""Weights and soft labels of training photographs: from the samples' JSON, and from the shares that a crowd voted.

`umbel shards make --labels` puts `acc`, `conf` and `weight` into the JSON; `umbel votes aggregate --soft` writes the
shares of species by observation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from umbel.data.label_text import identity
from umbel.data.photograph_set import observation_of
from umbel.data.reader import ShardReader
from umbel.data.shard_set import ShardSet
from umbel.data.table import read_table
from umbel.run import UserError, say

WeightField = Literal["auto", "none", "weight", "acc", "conf"]
FIELDS = ("weight", "acc")
SOFT_FILES = ("soft.parquet", "soft.csv")


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """What the photographs' labels are taken for."""

    weight: WeightField = "auto"
    """Number in the samples' JSON that a photograph counts by: weight, acc (the label's share of the votes), conf,
    none; auto: weight or acc, where any photograph has it. Scaled to 1 on average; one without it counts 1."""
    soft: Path | None = None
    """Shares of classes by observation: a folder of `umbel votes aggregate --soft`, or its soft.parquet or soft.csv."""
    smoothing: float = 0.1
    """Share of every label that is spread evenly over all classes."""
    balance: float = 0.5
    """Class balance of the order: 0: photographs as they come; 1: as many of each class."""

    def __post_init__(self) -> None:
        if self.weight not in get_args(WeightField):
            raise ValueError(f"labels.weight must be one of {', '.join(get_args(WeightField))}, not {self.weight}")
        for name in ("smoothing", "balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"labels.{name} must lie between 0 and 1, not {getattr(self, name):g}")
        if self.smoothing == 1:
            raise ValueError("labels.smoothing must be below 1: nothing would be left of the labels")


def read_told(shards: ShardSet) -> list[dict[str, Any]]:
    """The JSON of every sample, in order; {} for one without.

    Raises:
        UserError: it is not an object.
    """
    reader, found = ShardReader(shards), []
    for sample in range(len(shards)):
        try:
            told = json.loads(reader.read(sample, "json") or b"{}")
            if not isinstance(told, dict):
                raise ValueError("it is not an object")
        except (ValueError, RecursionError) as error:
            raise UserError(f"sample '{shards.key(sample)}': its JSON cannot be read ({error}).") from error
        found.append(told)
    return found


def weights_of(told: Sequence[Mapping[str, Any]], field: WeightField, shards: ShardSet) -> np.ndarray:
    """(N,) float32, 1 on average: what each photograph's JSON says, 1 where it says nothing.

    Raises:
        UserError: a weight that is no number from 0, all of them 0, or a field that no photograph has.
    """
    if field == "auto":
        there = [name for name in FIELDS if any(name in row for row in told)]
        field = there[0] if there else "none"  # type: ignore[assignment]
        if there:
            say(f"photographs count by their {field}: it stands in their JSON.")
    if field == "none":
        return np.ones(len(told), dtype=np.float32)
    if not any(field in row for row in told):
        raise UserError(f"--labels.weight {field}: no photograph's JSON has it; leave it out.")
    found: np.ndarray = np.ones(len(told))
    for sample, row in enumerate(told):
        value = row.get(field, 1.0)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < float("inf"):
            raise UserError(f"sample '{shards.key(sample)}': its {field} is {value!r} and not a number from 0.")
        found[sample] = value
    if not found.any():
        raise UserError(f"--labels.weight {field}: it is 0 for every photograph; leave it out.")
    scaled: np.ndarray = (found / found.mean()).astype(np.float32)
    return scaled


def read_soft(path: Path) -> dict[str, dict[str, float]]:
    """Shares by observation and label.

    Raises:
        UserError: no such file, a missing column, or a share that is no number from 0.
    """
    if path.is_dir():
        path = next((path / name for name in SOFT_FILES if (path / name).is_file()), path / SOFT_FILES[0])
    if not path.is_file():
        raise UserError(f"--labels.soft {path}: there is no such file; `umbel votes aggregate --soft` writes it.")
    found: dict[str, dict[str, float]] = {}
    for line, row in enumerate(_soft_rows(path), start=1):
        observation, label = identity(row["observation"]), identity(row["label"])
        try:
            share = float(row["share"])
        except (TypeError, ValueError):
            share = -1.0
        if observation is None or label is None or not 0 <= share < float("inf"):
            raise UserError(f"--labels.soft {path}, row {line}: it needs an observation, a label and a share from 0.")
        found.setdefault(observation, {})[label] = share
    return found


def _soft_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix.lower() not in (".parquet", ".pq"):
        yield from read_table(path, needed=("observation", "label", "share"))
        return
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            missing = {"observation", "label", "share"} - set(file.schema_arrow.names)
            if missing:
                raise UserError(f"--labels.soft {path} has no column '{min(missing)}'.")
            for batch in file.iter_batches(columns=["observation", "label", "share"]):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"--labels.soft {path} is no Parquet file that can be read ({error}).") from error


IDENTITIES: dict[str, Callable[[Mapping[str, Any], str], object]] = {
    "observation": lambda told, key: observation_of(told),
    "image id": lambda told, key: told.get("image_id"),
    "file name": lambda told, key: Path(str(told.get("source", ""))).stem,
    "key": lambda told, key: key,
}
"""What an observation may be called by, as where labels are joined."""


def soft_targets(
    shares: Mapping[str, Mapping[str, float]],
    told: Sequence[Mapping[str, Any]],
    shards: ShardSet,
    classes: Sequence[str],
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Sample -> columns and shares, which sum to 1; what a crowd voted for that is no class does not count.

    Raises:
        UserError: the shares are of none of the photographs.
    """
    by_name: dict[str, list[str | None]] = {
        name: [identity(of(row, shards.key(sample))) for sample, row in enumerate(told)]
        for name, of in IDENTITIES.items()
    }
    chosen = max(by_name, key=lambda name: sum(one in shares for one in by_name[name]))
    column = {name: number for number, name in enumerate(classes)}
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for sample, observation in enumerate(by_name[chosen]):
        row = shares.get(observation or "", {})
        known = {column[name]: share for name, share in row.items() if name in column and share > 0}
        if known:
            values = np.array(list(known.values()))
            found[sample] = np.array(list(known)), (values / values.sum()).astype(np.float32)
    if not found:
        raise UserError("--labels.soft: its observations or labels are none of the photographs'.")
    say(f"soft labels, joined by {chosen}: {len(found):,} of {len(told):,} photographs have them.")
    return found
