"""A set of hash codes: packed bits with their keys, labels and splits, and where they come from.

Stored as a folder: codes.safetensors (label, split, key_end, packed), keys.txt, codes.json (bits, packing,
provenance), and for large sets index.faiss. All of it is memory-mapped when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from umbel.evaluation.hashing.keys import Keys, line_ends
from umbel.evaluation.tensor_file import write_tensors
from umbel.evaluation.tensor_map import map_tensors
from umbel.run import UserError, atomic_folder, read_json

PACKING = "numpy.packbits: bit 0 is the highest bit of byte 0; padded with zeros to whole bytes"
TENSORS, KEYS, RECORD, INDEX = "codes.safetensors", "keys.txt", "codes.json", "index.faiss"


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
    keys: Sequence[str]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    """Line n names label n; empty without labels."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Coder (where, method, sha256), embeddings (where, sha256, their own provenance), versions, search index."""

    def __len__(self) -> int:
        return len(self.packed)

    def name(self, row: int) -> str | None:
        """The class of a photograph in words; None without a label."""
        label = int(self.label[row])
        return self.classes[label] if 0 <= label < len(self.classes) else None

    def save(self, folder: Path) -> None:
        """Write the folder; it appears whole or not at all."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as beside:
            (beside / KEYS).write_bytes("".join(f"{key}\n" for key in self.keys).encode())
            write_arrays(beside, self.packed.shape, [self.label], [self.split], [self.packed])
            write_record(beside, self)

    @classmethod
    def load(cls, folder: Path) -> Codes:
        """Open a folder that `save` or `umbel hash encode` wrote; codes, labels and keys are memory-mapped.

        Raises:
            UserError: not such a folder, damaged, or of a newer format.
        """
        if not (folder / RECORD).is_file():
            raise UserError(f"{folder} holds no codes ({RECORD}): make them with `umbel hash encode`.")
        told = read_json(folder / RECORD, "the codes' record")
        try:
            arrays = map_tensors(folder / TENSORS)
            codes = cls(
                packed=arrays["packed"],
                bits=told["bits"],
                label=arrays["label"],
                split=arrays["split"],
                # Codes of earlier versions do not tell where lines end; counting them takes half a second for ten
                # million.
                keys=Keys(folder / KEYS, arrays.get("key_end")),
                splits=tuple(told["splits"]),
                classes=tuple(told["classes"]),
                provenance=told["provenance"],
            )
            fault = _fault(codes, told["count"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"the codes in {folder} cannot be read ({error}).") from error
        if fault:
            raise UserError(f"the codes in {folder} do not fit together: {fault}.")
        return codes


Pieces = Iterable[np.ndarray]


def write_arrays(folder: Path, shape: tuple[int, ...], label: Pieces, split: Pieces, packed: Pieces) -> None:
    """Write the tensors, each in pieces, beside a keys.txt that is there.

    Args:
        shape: of the packed codes, (N, ceil(K / 8)).
        label, split: rows of int64; packed: rows of uint8.
    """
    rows = shape[:1]
    tensors = {
        "label": ("<i8", rows, label),
        "split": ("<i8", rows, split),
        "key_end": ("<i8", rows, [line_ends(folder / KEYS)]),
        "packed": ("|u1", shape, packed),
    }
    write_tensors(folder / TENSORS, tensors)


def write_record(folder: Path, codes: Codes) -> None:
    """Write codes.json, which makes a folder one of codes."""
    told = {"format": 1, "bits": codes.bits, "packing": PACKING, "count": len(codes)} | {
        "splits": list(codes.splits),
        "classes": list(codes.classes),
        "provenance": codes.provenance,
    }
    (folder / RECORD).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


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
