"""What photographs are paired with: texts of their species, their captions, or embeddings of another modality."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umbel.data.reader import ShardReader
from umbel.data.shard_set import ShardSet
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.pairs import Reads
from umbel.evaluation.hashing.species_texts import texts_of_classes
from umbel.evaluation.hashing.text_features import text_features
from umbel.run import UserError

NAMES, CAPTIONS = "names", "captions"


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """n photographs and what describes them."""

    rows: np.ndarray  # (n,) int64 rows of the embeddings
    others: Tensor  # (T, M, D) features of T descriptions of M things
    of: Tensor  # (n,) int64, which of the M each photograph belongs to
    reads: Reads


def pair_with(what: str, embeddings: Embeddings, shards: ShardSet | None) -> Pairs:
    """Find the partners of embedded photographs.

    Args:
        what: "names" (texts of the species, by templates), "captions" (each photograph's text in the shards), or a
            folder of embeddings with the same keys.
        shards: those that the embeddings were made of; for captions, and for what they tell of a species beside its
            name.

    Raises:
        UserError: there is nothing to pair with.
    """
    if what == NAMES:
        return _with_names(embeddings, shards)
    if what == CAPTIONS:
        return _with_captions(embeddings, shards)
    return _with_embeddings(embeddings, Path(what))


def samples_by_key(shards: ShardSet) -> dict[tuple[str, str], int]:
    """(split, key) -> sample."""
    splits = [shard.split for shard in shards.shards]
    return {(splits[row["shard"]], shards.key(sample)): sample for sample, row in enumerate(shards.members)}


def records_of_classes(embeddings: Embeddings, shards: ShardSet | None) -> dict[int, Mapping[str, Any]]:
    """For each label the metadata of one of its photographs; empty without shards."""
    if shards is None:
        return {}
    samples, reader = samples_by_key(shards), ShardReader(shards)
    records: dict[int, Mapping[str, Any]] = {}
    labels, firsts = np.unique(embeddings.label, return_index=True)
    for label, row in zip(labels.tolist(), firsts.tolist(), strict=True):
        sample = samples.get((embeddings.splits[embeddings.split[row]], embeddings.keys[row]))
        if label >= 0 and sample is not None:
            records[label] = _record(reader.read(sample, "json"))
    return records


def _record(content: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(content or b"{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _with_names(embeddings: Embeddings, shards: ShardSet | None) -> Pairs:
    rows = np.flatnonzero(embeddings.label >= 0)
    if not embeddings.classes or not len(rows):
        raise UserError("--pairs names needs photographs with labels, and the names of their classes (classes.txt).")
    texts = texts_of_classes(embeddings.classes, records_of_classes(embeddings, shards))
    most = max(map(len, texts))
    # Classes with fewer texts repeat theirs.
    rounds = [text_features([of_class[turn % len(of_class)] for of_class in texts]) for turn in range(most)]
    others = torch.from_numpy(np.stack(rounds))
    return Pairs(rows=rows, others=others, of=torch.from_numpy(embeddings.label[rows]), reads="text")


def _with_captions(embeddings: Embeddings, shards: ShardSet | None) -> Pairs:
    if shards is None:
        raise UserError("--pairs captions reads them from the photographs' shards: say where these are with --data.")
    samples, reader = samples_by_key(shards), ShardReader(shards)
    rows, texts = [], []
    for row, key in enumerate(embeddings.keys):
        sample = samples.get((embeddings.splits[embeddings.split[row]], key))
        text = "" if sample is None else reader.read(sample, "txt").decode("utf-8", "replace").strip()
        if text:
            rows.append(row)
            texts.append(text)
    if not rows:
        raise UserError("no photograph has a caption (<key>.txt beside it in its shard).")
    others = torch.from_numpy(text_features(texts))[None]
    return Pairs(rows=np.array(rows), others=others, of=torch.arange(len(rows)), reads="text")


def _with_embeddings(embeddings: Embeddings, folder: Path) -> Pairs:
    other = Embeddings.load(folder)
    place = {key: row for row, key in enumerate(other.keys)}
    if len(place) < len(other.keys):
        raise UserError(f"{folder} has keys that stand there twice: pairs are found by key.")
    rows = np.array([row for row, key in enumerate(embeddings.keys) if key in place], dtype=np.int64)
    if not len(rows):
        raise UserError(f"{folder} has no key in common with the photographs' embeddings.")
    partners = other.features[[place[embeddings.keys[row]] for row in rows]]
    return Pairs(rows=rows, others=torch.from_numpy(partners)[None], of=torch.arange(len(rows)), reads="embeddings")
