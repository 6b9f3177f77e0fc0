"""A set of embeddings: features with their keys, labels and splits, and where they come from.

Stored as a folder: embeddings.safetensors (features, label, split), keys.txt, embeddings.json (provenance).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from umbel.run import UserError, atomic_folder, read_json


def record(splits: Sequence[str], classes: Sequence[str], shape: tuple[int, ...], provenance: dict[str, Any]) -> str:
    """The content of embeddings.json for features of a shape, (N, C)."""
    told = {"format": 1, "splits": list(splits), "classes": list(classes)} | {
        "count": int(shape[0]),
        "width": int(shape[1]),
        "provenance": provenance,
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """N embedded photographs, in the order of their shards."""

    features: np.ndarray  # (N, C) float32, as the backbone gives them: not normalized
    label: np.ndarray  # (N,) int64, -1 without
    split: np.ndarray  # (N,) int64, index into `splits`
    keys: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    """Line n names label n; empty without labels."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Backbone (source, sha256), preprocessing, data (where, fingerprint), versions, seconds."""

    def __len__(self) -> int:
        return len(self.features)

    def of(self, *splits: str) -> Embeddings:
        """The photographs of some splits; all splits' names are kept.

        Raises:
            UserError: there are none.
        """
        wanted = [number for number, name in enumerate(self.splits) if name in splits]
        rows = np.flatnonzero(np.isin(self.split, wanted))
        if not len(rows):
            raise UserError(f"no embeddings of split {' or '.join(splits)}; there are: {', '.join(self.splits)}.")
        return self.take(rows)

    def take(self, rows: np.ndarray) -> Embeddings:
        """Some rows, (n,) int64."""
        return Embeddings(
            features=self.features[rows],
            label=self.label[rows],
            split=self.split[rows],
            keys=tuple(self.keys[row] for row in rows),
            splits=self.splits,
            classes=self.classes,
            provenance=self.provenance,
        )

    def save(self, folder: Path) -> None:
        """Write the folder; it appears whole or not at all."""
        arrays = {
            "features": np.ascontiguousarray(self.features, dtype=np.float32),
            "label": np.ascontiguousarray(self.label, dtype=np.int64),
            "split": np.ascontiguousarray(self.split, dtype=np.int64),
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as beside:
            save_file(arrays, beside / "embeddings.safetensors")
            (beside / "keys.txt").write_text("".join(f"{key}\n" for key in self.keys))
            text = record(self.splits, self.classes, self.features.shape, self.provenance)
            (beside / "embeddings.json").write_text(text)

    @classmethod
    def load(cls, folder: Path) -> Embeddings:
        """Read a folder that `save` wrote.

        Raises:
            UserError: not such a folder, damaged, or of a newer format.
        """
        if not (folder / "embeddings.json").is_file():
            raise UserError(f"{folder} holds no embeddings (embeddings.json): make them with `umbel embed`.")
        told = read_json(folder / "embeddings.json", "the embeddings' record")
        try:
            arrays = load_file(folder / "embeddings.safetensors")
            keys = tuple((folder / "keys.txt").read_text().splitlines())
        except (OSError, SafetensorError) as error:
            raise UserError(f"the embeddings in {folder} cannot be read ({error}).") from error
        if len(keys) != len(arrays["features"]) or len(keys) != told["count"]:
            raise UserError(f"the embeddings in {folder} do not fit together: {len(keys)} keys, {told['count']} told.")
        return cls(
            features=arrays["features"],
            label=arrays["label"],
            split=arrays["split"],
            keys=keys,
            splits=tuple(told["splits"]),
            classes=tuple(told["classes"]),
            provenance=told["provenance"],
        )
