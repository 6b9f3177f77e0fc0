"""What is searched for: keys of the set, photographs, or anything else that has logits of the coder's bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from umbel.backbones import Backbone
from umbel.config import nearest
from umbel.data.photograph import BadPhotographError, read_photograph
from umbel.evaluation.embed import weights_sha256
from umbel.evaluation.hashing.codes import Codes, pack
from umbel.evaluation.hashing.pairs import PairedCoder
from umbel.evaluation.hashing.stored import (
    Hasher,
    backbone_name,
    backbone_sha256,
    file_sha256,
    load_hasher,
    own_backbone,
)
from umbel.evaluation.hashing.text_features import pieces
from umbel.evaluation.reading import read_again
from umbel.evaluation.stored_embeddings import RECORD, TENSORS, StoredEmbeddings
from umbel.run import UserError

SUGGEST = 100_000
"""Keys among which a similar one is looked for; among more it would take seconds."""


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Q queries, whatever they were."""

    names: tuple[str, ...]
    packed: np.ndarray  # (Q, ceil(K / 8)) uint8
    own: np.ndarray  # (Q,) int64: the query's row in the set, left out of its answer; -1 without
    logits: np.ndarray | None = None  # (Q, K) float32
    features: np.ndarray | None = None  # (Q, C) float32


def of_logits(names: Sequence[str], logits: np.ndarray, features: np.ndarray | None = None) -> Queries:
    """Queries of anything that a coder gives logits for, (Q, K); features (Q, C) where they are the set's own kind."""
    own = np.full(len(logits), -1, np.int64)
    return Queries(names=tuple(names), packed=pack(logits > 0), own=own, logits=logits, features=features)


def of_rows(codes: Codes, rows: Sequence[int]) -> Queries:
    """Queries of photographs of the set."""
    own = np.array(rows, np.int64)
    return Queries(names=tuple(codes.keys[row] for row in rows), packed=codes.packed[own], own=own)


def of_keys(codes: Codes, keys: Sequence[str]) -> Queries:
    """Queries of photographs of the set by their keys.

    Raises:
        UserError: no such key.
    """
    rows = find_rows(codes, keys)
    missing = next((key for key in keys if key not in rows), None)
    if missing is not None:
        similar = nearest(missing, codes.keys) if len(codes) <= SUGGEST else ""
        raise UserError(f"there is no photograph with the key '{missing}'{similar or '.'}")
    return of_rows(codes, [rows[key] for key in keys])


def find_rows(codes: Codes, keys: Sequence[str]) -> dict[str, int]:
    """The first row of each key; those that are not there are left out."""
    find: Callable[[Sequence[str]], dict[str, int]] | None = getattr(codes.keys, "find", None)
    return {key: codes.keys.index(key) for key in keys if key in codes.keys} if find is None else find(keys)


def of_photographs(hasher: Hasher, backbone: Backbone, photographs: dict[str, Image.Image]) -> Queries:
    """Queries of upright RGB photographs by their names."""
    with torch.inference_mode():
        images = [backbone.transform(image) for image in photographs.values()]
        features = np.concatenate([backbone.model(image[None]).float().numpy() for image in images])
    return of_logits(tuple(photographs), logits_of(hasher, features), features)


def of_texts(hasher: Hasher, texts: Sequence[str]) -> Queries:
    """Queries in words.

    Raises:
        UserError: the coder reads no text, or a text has no word.
    """
    if not isinstance(hasher, PairedCoder) or hasher.reads != "text":
        raise UserError("these codes know no words: fit their coder with `umbel hash fit --pairs names` or captions.")
    empty = next((text for text in texts if not any(pieces(text))), None)
    if empty is not None:
        raise UserError(f"there is no word in '{empty}'.")
    return of_logits(texts, hasher.text_logits(list(texts)))


def logits_of(hasher: Hasher, features: np.ndarray) -> np.ndarray:
    """(Q, C) -> (Q, K), one query at a time: a product of many rounds otherwise, and a batch would not be its parts."""
    return np.concatenate([hasher.logits(features[row : row + 1]) for row in range(len(features))])


def read_photographs(files: Sequence[Path]) -> dict[str, Image.Image]:
    """Photograph files by their names.

    Raises:
        UserError: one is none.
    """
    found = {}
    for file in files:
        try:
            found[str(file)] = read_photograph(file)
        except BadPhotographError as error:
            raise UserError(f"{file} cannot be used: {error}.") from error
    return found


def codes_hasher(codes: Codes, folder: Path | None) -> Hasher:
    """The coder that made the codes, from where they say that it lies, or from `folder`.

    Raises:
        UserError: it is not there, or another one.
    """
    told = codes.provenance.get("coder")
    if not isinstance(told, dict) or "folder" not in told:
        raise UserError("the codes do not tell the coder that made them.")
    folder = folder or Path(told["folder"])
    hasher, _ = load_hasher(folder)
    if file_sha256(folder / "coder.safetensors") != told.get("sha256"):
        raise UserError(f"{folder} holds another coder than the one that made the codes: encode them again.")
    return hasher


def codes_backbone(codes: Codes, name: str | None, coder: Path | None = None) -> Backbone:
    """The backbone that embedded the codes' photographs, from where they say that it lies, or by another name.

    An adapted one lies in its coder's folder: `coder`, or where the codes say that it is.

    Raises:
        UserError: no backbone, or another one.
    """
    told_coder = codes.provenance.get("coder")
    if coder is None and isinstance(told_coder, dict) and "folder" in told_coder:
        coder = Path(told_coder["folder"])
    beside = None if coder is None else own_backbone(coder)
    name = name or beside or backbone_name(codes.provenance)
    if name is None:
        raise UserError("the codes do not tell the backbone that embedded their photographs: give it with --backbone.")
    backbone = read_again(name, codes.provenance)
    told = backbone_sha256(codes.provenance)
    if told is not None and weights_sha256(backbone) != told:
        raise UserError(f"{name} has other weights than the backbone that embedded these photographs.")
    return backbone


def codes_embeddings(codes: Codes, folder: Path | None) -> StoredEmbeddings:
    """The embeddings that the codes were made of, memory-mapped, from where they say that they lie, or from `folder`.

    Raises:
        UserError: they are not there, or others.
    """
    told = codes.provenance.get("embeddings")
    if not isinstance(told, dict) or "folder" not in told:
        raise UserError("the codes do not tell the embeddings that they were made of.")
    embeddings = StoredEmbeddings.open(folder or Path(told["folder"]))
    # The record is small and tells weights, data and seconds: its hash stands for all. Codes of earlier versions have
    # the hash of the features alone.
    file, name = (RECORD, "record_sha256") if "record_sha256" in told else (TENSORS, "sha256")
    if len(embeddings) != len(codes) or file_sha256(embeddings.folder / file) != told.get(name):
        raise UserError(f"{embeddings.folder} holds other embeddings than the codes were made of: encode them again.")
    return embeddings
