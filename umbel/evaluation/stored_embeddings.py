"""Embeddings where they lie: a folder of `umbel embed` that may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from umbel.evaluation.tensor_map import map_tensors, tensor_pieces
from umbel.run import UserError, read_json

TENSORS, KEYS, RECORD = "embeddings.safetensors", "keys.txt", "embeddings.json"


@dataclass(frozen=True, kw_only=True)
class StoredEmbeddings:
    """N photographs' embeddings on disk, in the order of their shards."""

    folder: Path
    features: np.ndarray  # (N, C) float32, memory-mapped
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def width(self) -> int:
        """C."""
        return int(self.features.shape[1])

    @property
    def keys(self) -> Path:
        """The file with a key on each line."""
        return self.folder / KEYS

    def pieces(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """`features`, `label` or `split`, at most `rows` rows at a time."""
        return tensor_pieces(self.folder / TENSORS, name, rows)

    @classmethod
    def open(cls, folder: Path) -> StoredEmbeddings:
        """Open a folder of `umbel embed`; nothing but its record is read.

        Raises:
            UserError: not such a folder, damaged, or of a newer format.
        """
        if not (folder / RECORD).is_file():
            raise UserError(f"{folder} holds no embeddings ({RECORD}): make them with `umbel embed`.")
        told = read_json(folder / RECORD, "the embeddings' record")
        try:
            tensors = map_tensors(folder / TENSORS)
            features, rows = tensors["features"], (told["count"],)
            if features.ndim != 2 or not rows == features.shape[:1] == tensors["label"].shape == tensors["split"].shape:
                raise ValueError(f"features of {features.shape}, {told['count']} told")
            return cls(
                folder=folder,
                features=features,
                splits=tuple(told["splits"]),
                classes=tuple(told["classes"]),
                provenance=told["provenance"],
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"the embeddings in {folder} cannot be read ({error}).") from error
