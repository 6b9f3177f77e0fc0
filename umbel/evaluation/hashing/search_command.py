"""`umbel hash search CODES --key KEY | --photo FILE`: the photographs whose codes are nearest."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from umbel.backbones import load
from umbel.config import nearest
from umbel.data.photograph import BadPhotographError, read_photograph
from umbel.evaluation.embed import weights_sha256
from umbel.evaluation.hashing.codes import Codes
from umbel.evaluation.hashing.search import asymmetric_search, hamming_search
from umbel.evaluation.hashing.stored import Hasher, backbone_name, backbone_sha256, file_sha256, load_hasher
from umbel.run import UserError


@dataclass(frozen=True, kw_only=True)
class HashSearchConfig:
    """Find the photographs whose codes are nearest to one photograph's."""

    codes: Annotated[Path, tyro.conf.Positional]
    """A folder of `umbel hash encode`."""
    key: str | None = None
    """Key of a photograph among the codes; it is left out of its own answer."""
    photo: Path | None = None
    """A photograph of your own, embedded by the backbone that the codes' record names."""
    top: int = 10
    """Photographs to name."""
    asymmetric: bool = False
    """Rank by the real-valued query (with --photo) instead of its code."""
    backbone: str | None = None
    """The backbone, where it lies elsewhere by now."""
    coder: Path | None = None
    """The coder's folder, where it lies elsewhere by now."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        if (self.key is None) == (self.photo is None):
            raise ValueError("give either --key or --photo")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, not {self.top}")
        if self.asymmetric and self.photo is None:
            raise ValueError("--asymmetric needs --photo: a key has a code alone, no logits")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One line of the answer."""

    key: str
    distance: float
    """Bits that differ, or the L1 distance of an asymmetric search."""
    split: str
    name: str | None
    """Of its class; None without a label."""


def run(config: HashSearchConfig) -> None:
    """Search and print.

    Raises:
        UserError: no such key, a bad photograph, or a coder or backbone that is not the codes'.
    """
    codes = Codes.load(config.codes)
    # JSON has standard output for itself.
    with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
        if config.key is not None:
            found = search_by_key(codes, config.key, config.top)
        else:
            found = _search_by_photograph(codes, config)
    if config.json:
        print(json.dumps([vars(row) for row in found], indent=1, ensure_ascii=False))
        return
    print(f"{'rank':>4}  {'distance':>8}  {'split':<9}  class and key")
    for rank, row in enumerate(found, start=1):
        print(f"{rank:>4}  {row.distance:>8.4g}  {row.split:<9}  {row.name or '-'}  {row.key}")


def search_by_key(codes: Codes, key: str, top: int) -> list[Found]:
    """The nearest to a photograph of the set, itself left out.

    Raises:
        UserError: no such key.
    """
    if key not in codes.keys:
        raise UserError(f"there is no photograph with the key '{key}'{nearest(key, codes.keys)}.")
    row = codes.keys.index(key)
    distances, rows = hamming_search(codes.packed[row : row + 1], codes.packed, top + 1)
    others = rows[0] != row
    return _found(codes, distances[0][others][:top], rows[0][others][:top])


def _search_by_photograph(codes: Codes, config: HashSearchConfig) -> list[Found]:
    assert config.photo is not None
    hasher = codes_hasher(codes, config.coder)
    logits = hasher.logits(photograph_features(codes, config.photo, config.backbone))
    if config.asymmetric:
        distances, rows = asymmetric_search(logits, codes.packed, config.top)
    else:
        distances, rows = hamming_search(np.packbits(logits > 0, axis=1), codes.packed, config.top)
    return _found(codes, distances[0], rows[0])


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


def photograph_features(codes: Codes, photo: Path, name: str | None) -> np.ndarray:
    """A photograph through the codes' backbone: (1, C).

    Raises:
        UserError: a bad photograph, no backbone, or another one.
    """
    try:
        image = read_photograph(photo)
    except BadPhotographError as error:
        raise UserError(f"{photo} cannot be used: {error}.") from error
    name = name or backbone_name(codes.provenance)
    if name is None:
        raise UserError("the codes do not tell the backbone that embedded their photographs: give it with --backbone.")
    backbone = load(name)
    told = backbone_sha256(codes.provenance)
    if told is not None and weights_sha256(backbone) != told:
        raise UserError(f"{name} has other weights than the backbone that embedded these photographs.")
    with torch.inference_mode():
        features: np.ndarray = backbone.model(backbone.transform(image)[None]).float().numpy()
    return features


def _found(codes: Codes, distances: np.ndarray, rows: np.ndarray) -> list[Found]:
    answer = []
    for distance, row in zip(distances.tolist(), rows.tolist(), strict=True):
        label = int(codes.label[row])
        name = codes.classes[label] if 0 <= label < len(codes.classes) else None
        split = codes.splits[codes.split[row]]
        answer.append(Found(key=codes.keys[row], distance=distance, split=split, name=name))
    return answer
