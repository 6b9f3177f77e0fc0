"""Writing labels, users and soft labels as Parquet or CSV; `umbel shards make ... --labels` reads the labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from umbel.data.votes.aggregation import Aggregation
from umbel.data.votes.ids import Codes, Ids

Format = Literal["parquet", "csv"]
METADATA = b"umbel"


def labels_table(found: Aggregation) -> pa.Table:
    """A row for each observation: label, valid, conf, acc, votes, margin, tie; a missing label is null."""
    return pa.table(
        {
            "observation": pa.array(found.observation),
            "label": named(found.label_code, found.labels),
            "valid": found.valid,
            "conf": found.conf,
            "acc": found.acc,
            "votes": found.votes,
            "margin": found.margin,
            "tie": found.tie,
        }
    )


def users_table(found: Aggregation) -> pa.Table:
    """A row for each user: n_author, n_vote, n, weight, self_validating."""
    return pa.table(
        {
            "user": pa.array(found.user),
            "n_author": found.n_author,
            "n_vote": found.n_vote,
            "n": found.n,
            "weight": found.weight,
            "self_validating": found.self_validating,
        }
    )


def soft_table(found: Aggregation) -> pa.Table:
    """A row for each observation and species with votes: its share of the weight."""
    return pa.table(
        {
            "observation": named(found.share_observation, found.observation),
            "label": named(found.share_label, found.labels),
            "share": found.share,
        }
    )


def named(codes: Codes, names: Ids) -> pa.Array:
    """Codes as the ids that they stand for; a negative code as a missing one."""
    if names.dtype.kind == "i":
        return pa.array(names[codes], mask=codes < 0)
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(names, pa.string()))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table in the format that the file's suffix names."""
    if path.suffix == ".parquet":
        told = {METADATA: json.dumps({"format": 1, "table": path.stem}).encode()}
        pa.parquet.write_table(table.replace_schema_metadata(told), path)
        return
    for number, column in enumerate(table.columns):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(number, table.column_names[number], column.cast(pa.string()))
    pa.csv.write_csv(table, path)


def table_of(**columns: NDArray[Any] | pa.Array | list[Any]) -> pa.Table:
    """Columns by name as a table; an object array holds text."""
    return pa.table({name: pa.array(np.asarray(column)) for name, column in columns.items()})
