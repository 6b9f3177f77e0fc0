"""Several labels for each photograph: its class, and what fields of its JSON tell (genus, traits, plants beside it).

Source: the multi-label form of CroVCA (arXiv 2510.27584), where every active label counts.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from umbel.data.reader import ShardReader
from umbel.data.shard_set import ShardSet
from umbel.evaluation.sample_metadata import read_record
from umbel.run import UserError

MOST = 2_000_000_000
"""Photographs times labels: bytes, as each value is a column."""


def labels_with_fields(shards: ShardSet, samples: np.ndarray, fields: Sequence[str]) -> np.ndarray:
    """The labels of photographs: (n,) rows of the shards -> (n, L) bool.

    The first columns are the classes; behind them stands one for each value that a field has somewhere. A field tells a
    text, a number, or a list of them; the same value in two fields is two labels.

    Raises:
        UserError: no photograph tells one of the fields, or they tell too many values.
        UnreadableShardError: a shard cannot be read.
    """
    label = shards.members["label"][samples].astype(np.int64)
    reader = ShardReader(shards)
    records = (read_record(reader, sample) for sample in samples.tolist())
    told = [{name: _values(record.get(name)) for name in fields} for record in records]
    for name in fields:
        if not any(row[name] for row in told):
            raise UserError(f"no photograph tells '{name}' in its JSON: leave it out of --label-fields.")
    values = sorted({(name, value) for row in told for name, found in row.items() for value in found})
    column = {pair: number for number, pair in enumerate(values)}
    classes = max(len(shards.classes), int(label.max(initial=-1)) + 1)
    if len(samples) * (classes + len(values)) > MOST:
        raise UserError(
            f"--label-fields {' '.join(fields)} tell {len(values):,} different values, too many for {len(samples):,} "
            "photographs: labels are what photographs share, so leave out what tells each one apart."
        )
    own = np.zeros((len(samples), classes + len(values)), dtype=bool)
    own[np.flatnonzero(label >= 0), label[label >= 0]] = True
    for row, record in enumerate(told):
        own[row, [classes + column[name, value] for name, found in record.items() for value in found]] = True
    return own


def _values(told: Any) -> list[str]:
    """A field's values in words; what is neither text nor number is passed over."""
    values = told if isinstance(told, list) else [told]
    words = [_word(value) for value in values if isinstance(value, str | int | float)]
    return [word for word in dict.fromkeys(words) if word]


def _word(value: str | int | float) -> str:
    """One word for what is one value: 3 and 3.0, and letters however they are put together; "" for NaN."""
    if isinstance(value, float):
        value = "" if math.isnan(value) else int(value) if value.is_integer() else value
    return unicodedata.normalize("NFC", str(value)).strip()
