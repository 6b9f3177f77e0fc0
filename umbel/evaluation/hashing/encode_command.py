"""`umbel hash encode CODER --embeddings DIR --out DIR`: embeddings to packed codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.codes import Codes, pack
from umbel.evaluation.hashing.stored import (
    Hasher,
    already_made,
    backbone_sha256,
    file_sha256,
    load_hasher,
    versions,
)
from umbel.run import UserError, say


@dataclass(frozen=True, kw_only=True)
class HashEncodeConfig:
    """Turn embeddings into packed hash codes."""

    coder: Annotated[Path, tyro.conf.Positional]
    """A folder of `umbel hash fit`."""
    embeddings: Path
    """A folder of `umbel embed`, by the backbone that the coder was fitted for."""
    out: Path
    """Folder for the codes."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""


def run(config: HashEncodeConfig) -> None:
    """Encode and store.

    Raises:
        UserError: embeddings that are not the coder's, or something else at --out.
    """
    hasher, told = load_hasher(config.coder)
    embeddings = Embeddings.load(config.embeddings)
    check_fit(hasher, told, embeddings, config.coder, config.embeddings)
    coder = {
        "folder": str(config.coder),
        "method": hasher.method,
        "sha256": file_sha256(config.coder / "coder.safetensors"),
    }
    source = {
        "folder": str(config.embeddings),
        "sha256": file_sha256(config.embeddings / "embeddings.safetensors"),
    }
    asked = {"coder": coder["sha256"], "embeddings": source["sha256"]}
    if already_made(config.out, "codes.json", asked, force=config.force):
        say(f"{config.out} already holds these codes.")
        return
    names = ("backbone", "preprocessing", "reading", "data")
    codes = encode(
        hasher,
        embeddings,
        {"asked": asked, "coder": coder, "embeddings": source, "versions": versions()}
        | {name: embeddings.provenance.get(name) for name in names},
    )
    codes.save(config.out)
    say(f"{config.out}: {len(codes):,} codes of {codes.bits} bits, {codes.packed.nbytes:,} bytes.")


def encode(hasher: Hasher, embeddings: Embeddings, provenance: dict[str, Any]) -> Codes:
    """The codes of embeddings."""
    return Codes(
        packed=pack(hasher.encode(embeddings.features)),
        bits=hasher.bits,
        label=embeddings.label,
        split=embeddings.split,
        keys=embeddings.keys,
        splits=embeddings.splits,
        classes=embeddings.classes,
        provenance=provenance,
    )


def check_fit(hasher: Hasher, told: dict[str, Any], embeddings: Embeddings, coder: Path, folder: Path) -> None:
    """Refuse embeddings that the coder was not fitted for.

    Raises:
        UserError: another width, or another backbone.
    """
    width = embeddings.features.shape[1]
    if width != hasher.width:
        raise UserError(f"{folder} has features of width {width}, and {coder} was fitted for width {hasher.width}.")
    theirs, ours = backbone_sha256(embeddings.provenance), backbone_sha256(told)
    if theirs is not None and ours is not None and theirs != ours:
        raise UserError(
            f"{folder} was embedded by another backbone ({theirs[:12]}) than {coder} was fitted for ({ours[:12]}): "
            "fit a coder for it."
        )
