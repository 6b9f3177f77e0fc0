"""What photographs are paired with: texts of their species, their captions, or embeddings of another modality."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umbel.data.reader import ShardReader
from umbel.data.shard_set import ShardSet
from umbel.data.sound_files import find_sounds
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.pairs import Reads
from umbel.evaluation.hashing.species_texts import texts_of_classes
from umbel.evaluation.hashing.text_features import text_features
from umbel.run import UserError

NAMES, CAPTIONS = "names", "captions"
ReadTexts = Callable[[Sequence[str]], np.ndarray]
"""N texts -> (N, D) float32."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """n photographs and the texts that describe them."""

    rows: np.ndarray  # (n,) int64 rows of the photographs
    texts: tuple[tuple[str, ...], ...]
    """T texts of each of M things."""
    of: np.ndarray  # (n,) int64, which of the M each photograph belongs to

    def features(self, read: ReadTexts) -> Tensor:
        """(T, M, D)."""
        turns, things = len(self.texts[0]), len(self.texts)
        found = read([of_thing[turn] for turn in range(turns) for of_thing in self.texts])
        return torch.from_numpy(found).view(turns, things, -1)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """n photographs and what describes them."""

    rows: np.ndarray  # (n,) int64 rows of the embeddings
    others: Tensor  # (T, M, D) features of T descriptions of M things
    of: Tensor  # (n,) int64, which of the M each photograph belongs to
    reads: Reads


def pair_with(
    what: str,
    embeddings: Embeddings,
    shards: ShardSet | None,
    read: ReadTexts = text_features,
    sounds: str | None = None,
) -> Pairs:
    """Find the partners of embedded photographs.

    Args:
        what: "names" (texts of the species, by templates), "captions" (each photograph's text in the shards), or a
            folder of embeddings with the same keys.
        shards: those that the embeddings were made of; for captions, and for what they tell of a species beside its
            name.
        read: what reads the texts.
        sounds: where the embedded sounds' files lie; their captions stand beside them.

    Raises:
        UserError: there is nothing to pair with.
    """
    if what not in (NAMES, CAPTIONS):
        return _with_embeddings(embeddings, Path(what))
    found = texts_of(what, embeddings, shards, sounds)
    return Pairs(rows=found.rows, others=found.features(read), of=torch.from_numpy(found.of), reads="text")


def texts_of(what: str, photographs: Embeddings, shards: ShardSet | None, sounds: str | None = None) -> Texts:
    """The texts of photographs, by names or captions; see `pair_with`."""
    if what == NAMES:
        return _names(photographs, shards)
    if sounds is not None:
        return _captions_beside(photographs, Path(sounds))
    return _captions(photographs, shards)


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


def _names(embeddings: Embeddings, shards: ShardSet | None) -> Texts:
    rows = np.flatnonzero(embeddings.label >= 0)
    if not embeddings.classes or not len(rows):
        raise UserError("--pairs names needs photographs with labels, and the names of their classes (classes.txt).")
    texts = texts_of_classes(embeddings.classes, records_of_classes(embeddings, shards))
    most = max(map(len, texts))
    # Classes with fewer texts repeat theirs.
    repeated = tuple(tuple(of_class[turn % len(of_class)] for turn in range(most)) for of_class in texts)
    return Texts(rows=rows, texts=repeated, of=embeddings.label[rows])


def _captions(embeddings: Embeddings, shards: ShardSet | None) -> Texts:
    if shards is None:
        raise UserError("--pairs captions reads them from the photographs' shards: say where these are with --data.")
    samples, reader = samples_by_key(shards), ShardReader(shards)

    def caption(row: int) -> bytes:
        sample = samples.get((embeddings.splits[embeddings.split[row]], embeddings.keys[row]))
        return b"" if sample is None else reader.read(sample, "txt")

    return _of_each(embeddings, caption, "no photograph has a caption (<key>.txt beside it in its shard).")


def _captions_beside(embeddings: Embeddings, folder: Path) -> Texts:
    files = {file.stem: file.with_suffix(".txt") for file in find_sounds(folder)}

    def caption(row: int) -> bytes:
        file = files.get(embeddings.keys[row])
        return file.read_bytes() if file is not None and file.is_file() else b""

    return _of_each(embeddings, caption, f"no sound in {folder} has a caption (a .txt of its name beside it).")


def _of_each(embeddings: Embeddings, caption: Callable[[int], bytes], none: str) -> Texts:
    found = [caption(row).decode("utf-8", "replace").strip() for row in range(len(embeddings.keys))]
    rows = [row for row, text in enumerate(found) if text]
    if not rows:
        raise UserError(none)
    return Texts(rows=np.array(rows), texts=tuple((found[row],) for row in rows), of=np.arange(len(rows)))


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
