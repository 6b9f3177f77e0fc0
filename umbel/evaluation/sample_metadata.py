"""What samples tell beside their label: higher taxa and organ, from the JSON of their shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from umbel.data.reader import ShardReader
from umbel.data.shard_set import ShardSet
from umbel.evaluation.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class SampleMetadata:
    """Of N embedded photographs."""

    taxonomy: Taxonomy | None
    organs: tuple[str, ...] | None
    """(N,) the organ of each photograph, "" where it is not told; None where no photograph tells one."""


NOTHING = SampleMetadata(taxonomy=None, organs=None)


def locate(shards: ShardSet, keys: Sequence[str]) -> np.ndarray | None:
    """The samples, (N,), that embedded photographs are of; None where the shards are not those that were embedded.

    Photographs keep the order of their shards, and only damaged ones are left out. Keys alone would not do: two splits
    may use the same one.
    """
    found, sample = np.empty(len(keys), dtype=np.int64), 0
    for number, key in enumerate(keys):
        while sample < len(shards) and shards.key(sample) != key:
            sample += 1
        if sample == len(shards):
            return None
        found[number], sample = sample, sample + 1
    return found


def read_metadata(shards: ShardSet, samples: np.ndarray, labels: np.ndarray) -> SampleMetadata:
    """Read the JSON of photographs; what is not a JSON object tells nothing.

    Args:
        samples: (N,) rows of the shards; labels: (N,) classes, -1 without.

    Raises:
        UnreadableShardError: a shard cannot be read.
    """
    if not shards.members["json_bytes"][samples].any():
        return NOTHING
    reader = ShardReader(shards)
    records: dict[int, dict[str, Any]] = {}
    organs = []
    for sample, label in zip(samples.tolist(), labels.tolist(), strict=True):
        record = read_record(reader, sample)
        organ = record.get("organ")
        organs.append(organ if isinstance(organ, str) else "")
        if label >= 0 and record:
            records.setdefault(label, record)
    classes = max(len(shards.classes), int(labels.max(initial=-1)) + 1)
    return SampleMetadata(taxonomy=Taxonomy.of(records, classes), organs=tuple(organs) if any(organs) else None)


def read_record(reader: ShardReader, sample: int) -> dict[str, Any]:
    """The JSON of a sample; nothing where it is no object.

    Raises:
        UnreadableShardError: its shard cannot be read.
    """
    try:
        record = json.loads(reader.read(sample, "json") or b"{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
