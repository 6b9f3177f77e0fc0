"""Rejecting unknown species: does the similarity to what is known tell photographs of known species from others?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from umbel.evaluation.estimates import Estimate, over_draws
from umbel.evaluation.knn import neighbors

SHARE, DRAWS, RECALL = 0.2, 10, 0.95
SCORES = ("centroid", "nearest neighbor")


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """How well one score rejects; the intervals are over draws of the unknown species."""

    score: str
    unknown: int
    """Species that a draw leaves out."""
    draws: int
    auroc: Estimate
    false_accepts: Estimate
    """Share of unknown photographs that are accepted where 95 % of the known ones are."""


def rejection(
    support: Tensor,
    support_labels: np.ndarray,
    queries: Tensor,
    query_labels: np.ndarray,
    *,
    seed: int,
    draws: int = DRAWS,
    share: float = SHARE,
) -> list[Rejection]:
    """Leave random species out of the support, `draws` times, and score all queries.

    The scores: the greatest cosine to a class mean, in the centered space of `nearest_centroid` with the whole support;
    and the cosine to the nearest image of the support.

    Args:
        support: (N, C); support_labels: (N,); queries: (Q, C); query_labels: (Q,).

    Raises:
        ValueError: fewer than 3 classes in both support and queries.
    """
    classes = np.intersect1d(support_labels, query_labels)
    if len(classes) < 3:
        raise ValueError(f"rejection needs 3 species with support and queries, not {len(classes)}")
    count = min(max(1, round(share * len(classes))), len(classes) - 2)
    asked = np.isin(query_labels, classes)
    queries, query_labels = queries[torch.from_numpy(asked)], query_labels[asked]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SCORES}
    for draw in range(draws):
        unknown = np.random.default_rng([seed, draw]).permutation(classes)[:count]
        kept = ~np.isin(support_labels, unknown)
        strange = np.isin(query_labels, unknown)
        known = support[torch.from_numpy(kept)]
        nearest = neighbors(known, queries=queries, k=1)[0][:, 0]
        by_centroid = _centroid_scores(known, support_labels[kept], queries)
        for name, score in zip(SCORES, (by_centroid, nearest), strict=True):
            pair = score[~strange], score[strange]
            found[name].append((auroc(*pair), false_accepts(*pair)))
    return [
        Rejection(
            score=name,
            unknown=count,
            draws=draws,
            auroc=_within(over_draws([area for area, _ in pairs])),
            false_accepts=_within(over_draws([accepted for _, accepted in pairs])),
        )
        for name, pairs in found.items()
    ]


def auroc(known: NDArray[np.floating], unknown: NDArray[np.floating]) -> float:
    """Area under the ROC curve: how often a known photograph scores higher than an unknown one, ties half.

    Args:
        known: (A,) scores; unknown: (B,).
    """
    order = np.sort(unknown)
    below = np.searchsorted(order, known, side="left") + np.searchsorted(order, known, side="right")
    return float(below.sum() / (2 * len(known) * len(unknown)))


def false_accepts(known: NDArray[np.floating], unknown: NDArray[np.floating], *, recall: float = RECALL) -> float:
    """Share of unknown photographs at or above the highest threshold that accepts `recall` of the known ones."""
    threshold = np.sort(known)[::-1][int(np.ceil(recall * len(known))) - 1]
    return float((unknown >= threshold).mean())


def _centroid_scores(support: Tensor, labels: np.ndarray, queries: Tensor) -> NDArray[np.float32]:
    """(Q,) greatest cosine to a class mean."""
    classes, numbers = np.unique(labels, return_inverse=True)
    unit = normalize(support.float(), dim=1)
    mean = unit.mean(0)
    sums = unit.new_zeros((len(classes), unit.shape[1]))
    sums.index_add_(0, torch.from_numpy(numbers).to(unit.device), normalize(unit - mean, dim=1))
    centroids = normalize(sums, dim=1).T
    block = max(1, (1 << 22) // max(len(classes), unit.shape[1]))
    parts = [
        normalize(normalize(part.float(), dim=1) - mean, dim=1) @ centroids for part in torch.split(queries, block)
    ]
    scores: NDArray[np.float32] = torch.cat([part.amax(1) for part in parts]).cpu().numpy()
    return scores


def _within(found: Estimate) -> Estimate:
    """Shares stay between 0 and 1."""
    return Estimate(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))
