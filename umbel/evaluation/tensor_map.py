"""Tensors of a safetensors file where they lie: memory-mapped, or read piece by piece, never the whole file at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from umbel.evaluation.tensor_file import NAMES

KINDS = {name: np.dtype(kind) for kind, name in NAMES.items()}
Place = tuple[np.dtype[np.generic], tuple[int, ...], int]
"""A tensor's type, shape, and its first byte in the file."""


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors, read-only; a page is read when it is touched.

    Raises:
        SafetensorError, OSError: not such a file, cut off, or with a type that Umbel does not write.
    """
    return {name: _mapped(path, place) for name, place in places(path).items()}


def tensor_pieces(path: Path, name: str, rows: int) -> Iterator[np.ndarray]:
    """A tensor's rows, at most `rows` at a time, in memory of their own: what was read does not stay mapped.

    Raises:
        KeyError: there is no such tensor.
        SafetensorError, OSError: see `map_tensors`.
    """
    kind, shape, begin = places(path)[name]
    width = int(np.prod(shape[1:]))
    for first in range(0, shape[0], rows):
        count = min(rows, shape[0] - first)
        offset = begin + first * width * kind.itemsize
        yield np.fromfile(path, kind, count * width, offset=offset).reshape(count, *shape[1:])


def places(path: Path) -> dict[str, Place]:
    """Where each tensor lies.

    Raises:
        SafetensorError, OSError: see `map_tensors`.
    """
    with safe_open(path, "np"):
        pass  # the library checks the header: bounds, holes, overlaps, the file's length
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    found: dict[str, Place] = {}
    for name, told in header.items():
        if name == "__metadata__":
            continue
        if told["dtype"] not in KINDS:
            raise SafetensorError(f"tensor {name} is of type {told['dtype']}")
        found[name] = KINDS[told["dtype"]], tuple(told["shape"]), 8 + length + told["data_offsets"][0]
    return found


def _mapped(path: Path, place: Place) -> np.ndarray:
    kind, shape, begin = place
    if 0 in shape:  # nothing cannot be mapped
        return np.empty(shape, kind)
    return np.asarray(np.memmap(path, kind, "r", begin, shape))
