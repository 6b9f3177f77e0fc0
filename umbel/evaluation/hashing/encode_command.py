"""`umbel hash encode CODER --embeddings DIR | --data SHARDS --out DIR`: packed codes, made in pieces.

The set may be larger than memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from umbel.data.folder import check_shards
from umbel.evaluation.hashing.codes import INDEX, KEYS, TENSORS, Codes, pack, write_arrays, write_record
from umbel.evaluation.hashing.encode_photographs import EncodePhotographsConfig, encode_photographs
from umbel.evaluation.hashing.index import IndexChoice, build_index
from umbel.evaluation.hashing.keys import Keys
from umbel.evaluation.hashing.stored import (
    Hasher,
    already_made,
    backbone_sha256,
    file_sha256,
    load_hasher,
    versions,
)
from umbel.evaluation.hashing.stored_tower import BACKBONE
from umbel.evaluation.stored_embeddings import RECORD, StoredEmbeddings
from umbel.evaluation.stored_embeddings import TENSORS as FEATURES
from umbel.evaluation.tensor_map import map_tensors
from umbel.run import Bar, UserError, atomic_folder, rank, say

ROWS_AT_ONCE = 65536


@dataclass(frozen=True, kw_only=True)
class HashEncodeConfig(EncodePhotographsConfig):
    """Turn embeddings, or the photographs of shards, into packed hash codes."""

    coder: Annotated[Path, tyro.conf.Positional]
    """A folder of `umbel hash fit`."""
    embeddings: Path | None = None
    """A folder of `umbel embed`, by the backbone that the coder was fitted for; it may be larger than memory."""
    out: Path
    """Folder for the codes."""
    index: IndexChoice = "auto"
    """The search index beside the codes: auto (faiss IVF from 4 million photographs on), ivf, or none."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.embeddings is None) == (self.data is None):
            raise ValueError("give either embeddings or data: what is to be encoded")
        if self.data is None and self.backbone is not None:
            raise ValueError("backbone is for photographs (data); embeddings are made already")

    def check_data(self) -> None:
        """Refuse data that are not there; raises UserError."""
        if self.data is not None:
            check_shards(self.data)


def run(config: HashEncodeConfig) -> None:
    """Encode and store.

    Raises:
        UmbelError: what is given is not the coder's, something else at --out, or another rank failed.
    """
    hasher, told = load_hasher(config.coder)
    coder = {
        "folder": str(config.coder),
        "method": hasher.method,
        "sha256": file_sha256(config.coder / "coder.safetensors"),
    }
    if config.data is not None:
        where: dict[str, Any] = {"index": config.index, "force": config.force}
        encode_photographs(hasher, told, coder, config.data, config.out, config=config, **where)
    elif config.embeddings is not None and rank() == 0:  # reading takes longer than encoding: one process does it
        _encode_embeddings(config, config.embeddings, hasher, told, coder)


def _encode_embeddings(
    config: HashEncodeConfig, folder: Path, hasher: Hasher, told: dict[str, Any], coder: dict[str, str]
) -> None:
    embeddings = StoredEmbeddings.open(folder)
    check_fit(hasher, told, embeddings, config.coder)
    source = {
        "folder": str(folder),
        "sha256": file_sha256(folder / FEATURES),
        "record_sha256": file_sha256(folder / RECORD),
    }
    asked = {"coder": coder["sha256"], "embeddings": source["sha256"]}
    if config.index != "auto":
        asked["index"] = config.index
    if already_made(config.out, "codes.json", asked, force=config.force):
        say(f"{config.out} already holds these codes.")
        return
    names = ("backbone", "preprocessing", "reading", "data")
    codes = encode(
        hasher,
        embeddings,
        config.out,
        {"asked": asked, "coder": coder, "embeddings": source, "versions": versions()}
        | {name: embeddings.provenance.get(name) for name in names},
        index=config.index,
    )
    say(f"{config.out}: {len(codes):,} codes of {codes.bits} bits, {codes.packed.nbytes:,} bytes.")


def encode(
    hasher: Hasher, embeddings: StoredEmbeddings, out: Path, provenance: dict[str, Any], *, index: IndexChoice = "none"
) -> Codes:
    """Write the codes of embeddings, and their index; the folder appears whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(embeddings), -(-hasher.bits // 8))
    with atomic_folder(out) as beside:
        shutil.copyfile(embeddings.keys, beside / KEYS)
        label, split = (embeddings.pieces(name, ROWS_AT_ONCE) for name in ("label", "split"))
        write_arrays(beside, shape, label, split, _packed(hasher, embeddings))
        packed = map_tensors(beside / TENSORS)["packed"]
        made = build_index(packed, hasher.bits, beside / INDEX, index)
        write_record(beside, _codes(hasher, embeddings, beside, provenance | {"index": made}))
    return Codes.load(out)


def _packed(hasher: Hasher, embeddings: StoredEmbeddings) -> Iterator[np.ndarray]:
    with Bar("encoding photographs", len(embeddings)) as bar:
        for features in embeddings.pieces("features", ROWS_AT_ONCE):
            yield pack(hasher.encode(features))
            bar.advance(len(features))


def _codes(hasher: Hasher, embeddings: StoredEmbeddings, folder: Path, provenance: dict[str, Any]) -> Codes:
    arrays = map_tensors(folder / TENSORS)
    return Codes(
        packed=arrays["packed"],
        bits=hasher.bits,
        label=arrays["label"],
        split=arrays["split"],
        keys=Keys(folder / KEYS, arrays["key_end"]),
        splits=embeddings.splits,
        classes=embeddings.classes,
        provenance=provenance,
    )


def check_fit(hasher: Hasher, told: dict[str, Any], embeddings: StoredEmbeddings, coder: Path) -> None:
    """Refuse embeddings that the coder was not fitted for.

    Raises:
        UserError: another width, or another backbone.
    """
    folder, width = embeddings.folder, embeddings.width
    if width != hasher.width:
        raise UserError(f"{folder} has features of width {width}, and {coder} was fitted for width {hasher.width}.")
    theirs, ours = backbone_sha256(embeddings.provenance), backbone_sha256(told)
    if theirs is not None and ours is not None and theirs != ours:
        if "adapted" in told:
            raise UserError(
                f"{folder} was embedded by another backbone ({theirs[:12]}) than the adapted one of {coder} "
                f"({ours[:12]}): embed with `umbel embed {coder / BACKBONE}`."
            )
        raise UserError(
            f"{folder} was embedded by another backbone ({theirs[:12]}) than {coder} was fitted for ({ours[:12]}): "
            "fit a coder for it."
        )
