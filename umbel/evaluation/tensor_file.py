"""A safetensors file written piece by piece, so that its tensors need not fit into memory together."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

NAMES = {"<f4": "F32", "<i8": "I64", "|u1": "U8"}
Pieces = tuple[str, tuple[int, ...], Iterable[np.ndarray]]
"""A tensor's type (a key of NAMES), its shape, and its rows in pieces of any length."""


def write_tensors(path: Path, tensors: Mapping[str, Pieces]) -> None:
    """Write tensors in the order given, durably. The wider types must come first: readers want them aligned.

    Raises:
        ValueError: the pieces of a tensor are more or less than its shape.
    """
    header: dict[str, dict[str, object]] = {}
    ends: dict[str, int] = {}
    end = 0
    for name, (kind, shape, _) in tensors.items():
        begin, end = end, end + int(np.prod(shape)) * np.dtype(kind).itemsize
        ends[name] = end
        header[name] = {"dtype": NAMES[kind], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (kind, _, pieces) in tensors.items():
            for piece in pieces:
                file.write(np.ascontiguousarray(piece, dtype=kind).data)
            if file.tell() != 8 + len(text) + ends[name]:
                raise ValueError(f"the pieces of tensor {name} do not make up its shape")
        file.flush()
        os.fsync(file.fileno())
