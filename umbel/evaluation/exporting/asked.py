"""What an export was asked for, kept in its self_test.json: a later try goes on behind what an earlier one finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from umbel import __version__
from umbel.evaluation.exporting.artifact import TEST, sha256_of, sums_hold
from umbel.evaluation.exporting.classifier_head import head_files
from umbel.evaluation.extract import fingerprint

ASKED = "asked"


def asked_of(
    source: Path, formats: Sequence[str], *, data: str | None, int8: bool, per_class: int
) -> dict[str, dict[str, Any]]:
    """For each format all that its files depend on: the backbone's files, and what is said of 8 bits and photographs.

    Args:
        source: the backbone's timm folder.
        data: photographs, of which a hash is taken that costs no decoding.

    Raises:
        UserError: the data are no photographs.
    """
    told: dict[str, Any] = {
        "umbel": __version__,
        "weights": sha256_of(source / "model.safetensors"),
        "config": sha256_of(source / "config.json"),
    }
    # Only these read photographs: DATA that another format is given beside them changes nothing of it.
    photographed = [name for name in formats if name == "bundle" or (name == "onnx" and int8)]
    photographs: dict[str, Any] = {}
    if photographed and data is not None:
        photographs = {"data": fingerprint(data), "per_class": per_class}
    bits = {"int8": int8}
    heads = {file.name: sha256_of(file) for file in head_files(source)}
    return {
        name: told
        | (bits if name in ("onnx", "bundle") else {})
        | (photographs if name in photographed else {})
        | (heads if name == "bundle" else {})
        for name in formats
    }


def is_finished(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether an export that was asked for the same lies there, whole by its sums."""
    try:
        told = json.loads((folder / TEST).read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get(ASKED) == asked and sums_hold(folder)
