"""k nearest neighbors on cosine similarity: a plain majority and DINO's weighted vote (arXiv 2104.14294)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import normalize

from umbel.evaluation.fewshot import Features, check_features, check_labels

# Numbers in one temporary tensor.
CHUNK = 1 << 23


@dataclass(frozen=True, kw_only=True)
class Votes:
    """What the neighbors of Q queries say."""

    weighted: np.ndarray  # (Q,) int64, class by votes of weight exp(cosine / temperature)
    plain: np.ndarray  # (Q,) int64, class by majority; among equals that of the nearest neighbor

    def of(self, rows: np.ndarray) -> Votes:
        """The votes of some queries, (Q,) bool or row numbers."""
        return Votes(weighted=self.weighted[rows], plain=self.plain[rows])

    def accuracy(self, labels: Features | Sequence[int]) -> tuple[float, float]:
        """Share of queries whose class, (Q,), the weighted and the plain vote hit."""
        truth = check_labels(labels, len(self.plain), "labels")
        return float((self.weighted == truth).mean()), float((self.plain == truth).mean())


def vote(
    embeddings: Features,
    labels: Features | Sequence[int],
    *,
    queries: Features | None = None,
    k: int = 20,
    temperature: float = 0.07,
) -> Votes:
    """Classify queries by their k nearest neighbors.

    Args:
        embeddings: (N, C) features that vote.
        labels: (N,) their classes, integers from 0 up.
        queries: (Q, C) features to classify; None: the embeddings themselves, each by its neighbors among the others.
        k: neighbors; all of them where there are fewer.

    Raises:
        ValueError: shapes that do not fit, k below 1, a temperature that is not positive, nobody to vote.
    """
    label = check_labels(labels, len(embeddings), "labels")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    similarity, rows = neighbors(embeddings, queries=queries, k=k)
    weights = np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature)
    weighted, plain = [], []
    block = max(1, CHUNK // rows.shape[1] ** 2)
    for first in range(0, len(rows), block):
        near = label[rows[first : first + block]]  # (b, k), nearest first
        same = near[:, :, None] == near[:, None, :]  # (b, k, k): a neighbor's class has the votes of its row
        counts = same.sum(axis=2)
        sums = (same * weights[first : first + block, None, :]).sum(axis=2)
        # numpy's argmax takes the first of equals, which is the nearest.
        weighted.append(np.take_along_axis(near, sums.argmax(1)[:, None], axis=1)[:, 0])
        plain.append(np.take_along_axis(near, counts.argmax(1)[:, None], axis=1)[:, 0])
    return Votes(weighted=np.concatenate(weighted), plain=np.concatenate(plain))


def neighbors(embeddings: Features, *, queries: Features | None = None, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of the embeddings by cosine similarity, on their device.

    Args:
        embeddings: (N, C); queries: (Q, C), or None: the embeddings, none of which is its own neighbor.

    Returns:
        (Q, k) similarities, falling; (Q, k) rows.

    Raises:
        ValueError: shapes that do not fit, k below 1, or no neighbors.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    base = normalize(check_features(embeddings, "embeddings").float(), dim=1)
    asked = base if queries is None else normalize(check_features(queries, "queries").float().to(base.device), dim=1)
    if asked.shape[1] != base.shape[1]:
        raise ValueError(f"queries have width {asked.shape[1]}, embeddings {base.shape[1]}")
    k = min(k, len(base) - (queries is None))
    if k < 1:
        raise ValueError("a single embedding has no neighbors")
    similarities, rows = [], []
    block = max(1, CHUNK // len(base))
    for first in range(0, len(asked), block):
        cosine = asked[first : first + block] @ base.T  # (b, N)
        if queries is None:
            own = torch.arange(len(cosine), device=cosine.device)
            cosine[own, first + own] = -torch.inf
        near = cosine.topk(k, dim=1)
        similarities.append(near.values.cpu())
        rows.append(near.indices.cpu())
    return torch.cat(similarities).numpy(), torch.cat(rows).numpy()
