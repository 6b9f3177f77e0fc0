"""Fitted hashing methods as folders: coder.safetensors and coder.json; one interface for learned and plain ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from umbel import __version__
from umbel.config import first_difference
from umbel.evaluation.hashing.baselines import ITQ, LSH, LinearHash, PCARotation, PCASign
from umbel.evaluation.hashing.coder import HashCoder
from umbel.evaluation.hashing.pairs import PairedCoder
from umbel.evaluation.hashing.stored_tower import BACKBONE
from umbel.run import UserError, atomic_folder, move_aside, read_json

BASELINES: dict[str, type[LinearHash]] = {kind.method: kind for kind in (LSH, PCASign, PCARotation, ITQ)}


class Hasher(Protocol):
    """A fitted hashing method."""

    @property
    def method(self) -> str:
        """Its name: crovca, itq, ..."""
        ...

    @property
    def width(self) -> int:
        """C, of the features."""
        ...

    @property
    def bits(self) -> int:
        """K."""
        ...

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, C) -> (N, K) float32; a bit is set where its logit is positive."""
        ...

    def encode(self, features: np.ndarray) -> np.ndarray:
        """(N, C) -> (N, K) bool."""
        ...

    def settings(self) -> dict[str, Any]:
        """What makes the method again, beside its tensors."""
        ...

    def tensors(self) -> dict[str, np.ndarray]:
        """What was fitted."""
        ...


def save_hasher(
    folder: Path,
    hasher: Hasher,
    provenance: dict[str, Any],
    more: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Write the folder; it appears whole or not at all.

    Args:
        more: writes what else belongs into the folder, and returns what the provenance tells of it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as beside:
        provenance = provenance | (more(beside) if more is not None else {})
        told = {"format": 1, "method": hasher.method, "settings": hasher.settings(), "provenance": provenance}
        arrays = {name: np.ascontiguousarray(value) for name, value in hasher.tensors().items()}
        save_file(arrays, beside / "coder.safetensors")
        (beside / "coder.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def load_hasher(folder: Path) -> tuple[Hasher, dict[str, Any]]:
    """Read a folder that `save_hasher` wrote; every tensor must be there, fit, and be finite.

    Returns:
        The method and its provenance.

    Raises:
        UserError: not such a folder, damaged, or of a newer format.
    """
    if not (folder / "coder.json").is_file():
        raise UserError(f"{folder} holds no hash coder (coder.json): make one with `umbel hash fit`.")
    told = read_json(folder / "coder.json", "the coder's record")
    try:
        kinds: dict[str, Any] = {HashCoder.method: HashCoder, PairedCoder.method: PairedCoder, **BASELINES}
        if told["method"] not in kinds:
            raise ValueError(f"method {told['method']!r} is unknown")
        tensors = load_file(folder / "coder.safetensors")
        for name, value in tensors.items():
            if not np.isfinite(value).all():
                raise ValueError(f"{name} is not finite")
        hasher: Hasher = kinds[told["method"]].from_tensors(told["settings"], tensors)
        if isinstance(hasher, PairedCoder) and hasher.tower is not None:
            hasher.tower.home = folder
        return hasher, dict(told["provenance"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the hash coder in {folder} cannot be read ({error}).") from error


def already_made(out: Path, record: str, asked: dict[str, Any], *, force: bool) -> bool:
    """Whether `out` holds what is asked for; something else there is moved aside by --force.

    Args:
        record: name of the JSON file whose provenance holds what was asked when the folder was made.
        asked: settings and hashes of the inputs; paths do not count.

    Raises:
        UserError: `out` holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    difference = "holds other files"
    if (out / record).is_file():
        there = read_json(out / record, "the record").get("provenance", {}).get("asked", {})
        # Through JSON, as the record was: tuples are lists there.
        found = first_difference(there, json.loads(json.dumps(asked)), ())
        if found is None:
            return True
        difference = f"was made otherwise ({found})"
    if not force:
        raise UserError(f"{out} {difference}: choose another --out, or --force to move it aside.")
    move_aside(out)
    return False


def file_sha256(path: Path) -> str:
    """Hash of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error


def versions() -> dict[str, str]:
    """Of Umbel and of the libraries that decide on the bits."""
    return {"umbel": __version__} | {name: version(name) for name in ("torch", "numpy")}


def backbone_name(provenance: dict[str, Any]) -> str | None:
    """The backbone that embeddings' provenance names, as `umbel.backbones.load` takes it; None without."""
    told = provenance.get("backbone")
    source = told.get("source") if isinstance(told, dict) else None
    return source.removeprefix("folder ") if isinstance(source, str) else None


def own_backbone(folder: Path) -> str | None:
    """The adapted backbone in a coder's folder, wherever that lies by now; None where the coder has none of its own."""
    if not (folder / "coder.json").is_file():
        return None
    told = read_json(folder / "coder.json", "the coder's record").get("provenance", {})
    return str(folder / BACKBONE) if "adapted" in told and (folder / BACKBONE).is_dir() else None


def backbone_sha256(provenance: dict[str, Any]) -> str | None:
    """The hash of the backbone's weights that embeddings' provenance tells; None without."""
    told = provenance.get("backbone")
    return told.get("sha256") if isinstance(told, dict) else None
