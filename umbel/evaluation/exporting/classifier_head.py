"""The head of a fine-tuned classifier, in a checkpoint beside its backbone: what `umbel export --to bundle` takes.

head/head.safetensors   weight (K, C), bias (K,): logits of the backbone's feature as it is
head/head.json          classes, temperature, threshold, and what they were measured on
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from umbel.run import UserError, read_json, write_atomic

FOLDER = "head"
RECORD, TENSORS = "head.json", "head.safetensors"


@dataclass(frozen=True, kw_only=True)
class ClassifierHead:
    """A linear head with what makes its answers honest."""

    weight: NDArray[np.float32]  # (K, C)
    bias: NDArray[np.float32]  # (K,)
    classes: tuple[str, ...]
    temperature: float
    """softmax(logits / temperature) is the confidence."""
    threshold: float
    """Confidence below which the answer is "unknown"."""
    measured: dict[str, Any] = field(default_factory=dict)
    """The validation that temperature and threshold are of."""

    def write(self, checkpoint: Path) -> None:
        """Write it into a checkpoint's folder; what stands there is replaced file by file, each of them whole."""
        folder = checkpoint / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / TENSORS, save({"weight": self.weight, "bias": self.bias}))
        told = {
            "format": 1,
            "classes": list(self.classes),
            "temperature": self.temperature,
            "threshold": self.threshold,
            "measured": self.measured,
        }
        write_atomic(folder / RECORD, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def head_files(backbone: Path) -> list[Path]:
    """The files of the head beside a checkpoint's backbone; none where there is none."""
    files = [backbone.resolve().parent / FOLDER / name for name in (RECORD, TENSORS)]
    return files if all(file.is_file() for file in files) else []


def head_of(backbone: Path) -> ClassifierHead | None:
    """The head beside a checkpoint's backbone; None where there is none.

    Args:
        backbone: the timm folder in the checkpoint.

    Raises:
        UserError: it is damaged, or of a newer format.
    """
    folder = backbone.resolve().parent / FOLDER
    if not (folder / RECORD).is_file():
        return None
    told = read_json(folder / RECORD, "the head")
    try:
        tensors = load_file(folder / TENSORS)
        head = ClassifierHead(
            weight=tensors["weight"].astype(np.float32),
            bias=tensors["bias"].astype(np.float32),
            classes=tuple(map(str, told["classes"])),
            temperature=float(told["temperature"]),
            threshold=float(told["threshold"]),
            measured=dict(told["measured"]),
        )
        if head.weight.shape[0] != len(head.bias) or len(head.bias) != len(head.classes):
            raise ValueError("its classes and weights do not fit together")
        if not (math.isfinite(head.threshold) and 0 < head.temperature < math.inf):
            raise ValueError(f"temperature {head.temperature}, threshold {head.threshold}")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the head {folder} is damaged ({' '.join(str(error).split())[:200].rstrip('.')}).") from error
    return head
