"""A set of hash codes: packed bits with their keys, labels and splits, and where they come from.

Stored as a folder: codes.safetensors (packed, label, split), keys.txt, codes.json (bits, packing, provenance).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from umbel.run import UserError, atomic_folder, read_json

PACKING = "numpy.packbits: bit 0 is the highest bit of byte 0; padded with zeros to whole bytes"


def pack(bits: np.ndarray) -> np.ndarray:
    """(N, K) bool -> (N, ceil(K / 8)) uint8."""
    return np.packbits(bits, axis=1)


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """(N, ceil(K / 8)) uint8 -> (N, K) bool."""
    return np.unpackbits(packed, axis=1, count=bits).astype(bool)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """N photographs' codes of K bits, in the order of the embeddings that they were made of."""

    packed: np.ndarray  # (N, ceil(K / 8)) uint8
    bits: int
    """K."""
    label: np.ndarray  # (N,) int64, -1 without
    split: np.ndarray  # (N,) int64, index into `splits`
    keys: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    """Line n names label n; empty without labels."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Coder (where, method, sha256), embeddings (where, sha256, their own provenance), versions."""

    def __len__(self) -> int:
        return len(self.packed)

    def save(self, folder: Path) -> None:
        """Write the folder; it appears whole or not at all."""
        arrays = {
            "packed": np.ascontiguousarray(self.packed, dtype=np.uint8),
            "label": np.ascontiguousarray(self.label, dtype=np.int64),
            "split": np.ascontiguousarray(self.split, dtype=np.int64),
        }
        told = {"format": 1, "bits": self.bits, "packing": PACKING, "count": len(self)} | {
            "splits": list(self.splits),
            "classes": list(self.classes),
            "provenance": self.provenance,
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as beside:
            save_file(arrays, beside / "codes.safetensors")
            (beside / "keys.txt").write_text("".join(f"{key}\n" for key in self.keys))
            (beside / "codes.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Codes:
        """Read a folder that `save` wrote.

        Raises:
            UserError: not such a folder, damaged, or of a newer format.
        """
        if not (folder / "codes.json").is_file():
            raise UserError(f"{folder} holds no codes (codes.json): make them with `umbel hash encode`.")
        told = read_json(folder / "codes.json", "the codes' record")
        try:
            arrays = load_file(folder / "codes.safetensors")
            keys = tuple((folder / "keys.txt").read_text().splitlines())
            codes = cls(
                packed=arrays["packed"],
                bits=told["bits"],
                label=arrays["label"],
                split=arrays["split"],
                keys=keys,
                splits=tuple(told["splits"]),
                classes=tuple(told["classes"]),
                provenance=told["provenance"],
            )
            fault = _fault(codes, told["count"])
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"the codes in {folder} cannot be read ({error}).") from error
        if fault:
            raise UserError(f"the codes in {folder} do not fit together: {fault}.")
        return codes


def _fault(codes: Codes, count: int) -> str | None:
    """What is wrong with codes that were read, or None."""
    shape = (count, -(-codes.bits // 8))
    if codes.packed.shape != shape or codes.packed.dtype != np.uint8:
        return f"{codes.packed.dtype} {codes.packed.shape} where uint8 {shape} is told"
    if not len(codes.keys) == len(codes.label) == len(codes.split) == count:
        return f"{len(codes.keys)} keys, {len(codes.label)} labels, {len(codes.split)} splits, {count} told"
    spare = 8 * shape[1] - codes.bits
    if spare and (codes.packed[:, -1] & ((1 << spare) - 1)).any():
        return "bits behind the last one are set"
    return None
