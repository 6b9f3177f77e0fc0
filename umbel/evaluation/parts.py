"""Embeddings that are being made: parts of so many photographs, each stored whole or not at all.

A killed command goes on from the parts that are there. Any process may make any part; one joins them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from umbel.config import first_difference
from umbel.run import UserError, read_json, write_atomic

RECORD = "parts.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one part holds besides its features."""

    rows: np.ndarray  # (n,) int64: numbers of its samples
    width: int
    left_out: dict[str, str]
    seconds: float


class Parts:
    """A folder of parts: part p has samples p * size to (p + 1) * size - 1 of `count`."""

    def __init__(self, folder: Path, *, count: int, size: int) -> None:
        self.folder, self.count, self.size = folder, count, size
        self.all = range(-(-count // size))

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Make the folder, or go on in it, and forget which ranks failed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob("failed-*"):
            file.unlink()
        write_atomic(self.folder / RECORD, json.dumps({"format": 1, "asked": asked}, indent=1) + "\n")

    def missing(self) -> list[int]:
        """Parts that are not there yet."""
        there = {path.name for path in self.folder.glob("part-*.safetensors")}
        return [part for part in self.all if self._path(part).name not in there]

    def span(self, part: int) -> tuple[int, int]:
        """Its first sample, and the one behind its last."""
        return part * self.size, min((part + 1) * self.size, self.count)

    def store(
        self, part: int, rows: np.ndarray, features: np.ndarray, *, left_out: Mapping[str, str], seconds: float
    ) -> None:
        """Store a part: rows (n,) int64, features (n, C) float32 or uint8. It is durable when this returns."""
        told = {"left_out": json.dumps(dict(left_out)), "seconds": repr(seconds)}
        content = save({"rows": rows, "features": features}, metadata=told)
        write_atomic(self._path(part), content)

    def read(self, part: int) -> Part:
        """A part without its features.

        Raises:
            UserError: it cannot be read.
        """
        with self._opened(part) as file:
            told = file.metadata()
            return Part(
                rows=file.get_tensor("rows"),
                width=file.get_slice("features").get_shape()[1],
                left_out=json.loads(told["left_out"]),
                seconds=float(told["seconds"]),
            )

    def features(self) -> Iterator[np.ndarray]:
        """The features of every part, (n, C), one after the other; parts without photographs are passed over.

        Raises:
            UserError: a part cannot be read.
        """
        for part in self.all:
            with self._opened(part) as file:
                found: np.ndarray = file.get_tensor("features")
            if len(found):
                yield found

    def tell_failure(self, rank: int) -> None:
        """Let rank 0 know that this rank's parts will not come."""
        (self.folder / f"failed-{rank}").touch()

    def failed(self) -> str | None:
        """The number of a rank that failed; None where none did."""
        return next((path.name.removeprefix("failed-") for path in sorted(self.folder.glob("failed-*"))), None)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.safetensors"

    def _opened(self, part: int) -> Any:
        try:
            return safe_open(self._path(part), "np")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self._path(part)} cannot be read ({error}): delete it, and it is made again.") from error


def other_parts(folder: Path, asked: Mapping[str, Any]) -> str | None:
    """How parts that are there differ from what is asked, in words; None where there are none, or they are the same."""
    if not (folder / RECORD).is_file() or not any(folder.glob("part-*.safetensors")):
        return None
    return first_difference(read_json(folder / RECORD, "the parts' record")["asked"], dict(asked), ())
