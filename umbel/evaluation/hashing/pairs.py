"""Two modalities in one Hamming space: a coder for each, and each predicts the other's bits.

Source: Compact Hypercube Embeddings for Fast Text-based Wildlife Observation Retrieval (arXiv 2601.22783); the loss is
CroVCA's (arXiv 2510.27584) with an observation and its text (or sound) as the two views of an item.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from umbel.evaluation.hashing.coder import HashCoder
from umbel.evaluation.hashing.stored_tower import StoredTower
from umbel.evaluation.hashing.text_features import text_features
from umbel.evaluation.hashing.train_coders import CrovcaConfig, FitLog, train_coders

Reads = Literal["embeddings", "text"]


class PairedCoder:
    """A coder of photographs' features, and one of the other modality's, whose codes can be compared."""

    method: ClassVar[str] = "crovca-pairs"

    def __init__(self, coder: HashCoder, other: HashCoder, reads: Reads, tower: StoredTower | None = None) -> None:
        """
        Args:
            coder: of the photographs' features.
            other: of the other modality's.
            reads: what `other` is given: embeddings, or the features of texts.
            tower: reads the texts; without one they are read as hashed letters (`text_features`).
        """
        self.coder, self.other, self.reads, self.tower = coder, other, reads, tower

    @property
    def width(self) -> int:
        """C, of the photographs' features."""
        return self.coder.width

    @property
    def bits(self) -> int:
        """K, of both."""
        return self.coder.bits

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, C) of photographs -> (N, K) float32."""
        return self.coder.logits(features)

    def encode(self, features: np.ndarray) -> np.ndarray:
        """(N, C) of photographs -> (N, K) bool."""
        return self.coder.encode(features)

    def text_logits(self, texts: list[str]) -> np.ndarray:
        """N texts -> (N, K) float32.

        Raises:
            ValueError: the other modality is not text.
            UserError: the tower that read the texts cannot be had.
        """
        return self.other.logits(self.text_features(texts))

    def text_features(self, texts: list[str]) -> np.ndarray:
        """N texts -> (N, D) float32, what `other` is given; see `text_logits`."""
        if self.reads != "text":
            raise ValueError("this coder was fitted on pairs of embeddings, not on texts")
        return text_features(texts, self.other.width) if self.tower is None else self.tower.features(texts)

    def settings(self) -> dict[str, Any]:
        """What `from_tensors` needs beside the tensors."""
        tower = {} if self.tower is None else {"tower": self.tower.record()}
        return {"coder": self.coder.settings(), "other": self.other.settings(), "reads": self.reads} | tower

    def tensors(self) -> dict[str, np.ndarray]:
        """Both coders' weights and statistics."""
        both = {"coder": self.coder, "other": self.other}
        return {f"{part}.{name}": value for part, coder in both.items() for name, value in coder.tensors().items()}

    @classmethod
    def from_tensors(cls, settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        """The coders that `settings` and `tensors` tell of.

        Raises:
            ValueError, TypeError, KeyError: settings or tensors that do not fit together.
        """
        if settings["reads"] not in ("embeddings", "text"):
            raise ValueError(f"reads {settings['reads']!r} is unknown")
        parts: dict[str, dict[str, np.ndarray]] = {"coder": {}, "other": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        coder, other = (HashCoder.from_tensors(settings[part], parts[part]) for part in ("coder", "other"))
        if coder.bits != other.bits:
            raise ValueError(f"{coder.bits} and {other.bits} bits")
        tower = settings.get("tower")
        return cls(coder, other, settings["reads"], None if tower is None else StoredTower(**tower))


def fit_pairs(
    views: Tensor,
    others: Tensor,
    of: Tensor,
    *,
    bits: int,
    reads: Reads,
    tower: StoredTower | None = None,
    seed: int = 0,
    config: CrovcaConfig | None = None,
    log: FitLog | None = None,
) -> PairedCoder:
    """Train a coder for each modality on pairs.

    Args:
        views: (R, N, C) embeddings of R views of N observations; 1 is enough.
        others: (T, M, D) features of T descriptions of M things.
        of: (N,) int64, which of the M an observation belongs to: a species for its texts, or itself.
        bits: K.
        reads: what `others` are.
        tower: made `others` of texts.

    Raises:
        UserError: too few observations.
        TrainingError: a loss that is not finite.
    """
    config = config or CrovcaConfig()

    def draw(rows: Tensor, generator: torch.Generator) -> list[tuple[int, Tensor]]:
        count = len(rows)
        view = torch.randint(len(views), (count,), generator=generator).to(views.device)
        other = torch.randint(len(others), (count,), generator=generator).to(others.device)
        return [(0, views[view, rows.to(views.device)]), (1, others[other, of[rows].to(others.device)])]

    widths, count = [views.shape[2], others.shape[2]], views.shape[1]
    coders = train_coders(widths, count, draw, bits=bits, seed=seed, config=config, device=views.device, log=log)
    return PairedCoder(coders[0], coders[1], reads, tower)
