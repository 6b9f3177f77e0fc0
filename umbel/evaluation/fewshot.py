"""Few-shot accuracy of frozen features: nearest class mean after centering, over random draws of support images.

The protocol of "Self-Supervised Learning of Plant Image Representations" (arXiv 2604.27538). Draws depend on the labels
and the seed alone, so two backbones are compared on the same draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from umbel.evaluation.centroid import Queries
from umbel.evaluation.estimates import interval
from umbel.evaluation.feature_checks import Features, check_features, check_labels

__all__ = ["Outcomes", "centroid_outcomes", "draw_support", "interval", "left_out_classes", "nearest_centroid"]
# Numbers in one temporary tensor: 32 MiB in float64.
CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What nearest centroids answer to Q queries in each of d draws."""

    truth: np.ndarray  # (Q,) int64, the queries' classes
    predicted: np.ndarray  # (d, Q) int32, classes
    among_top: np.ndarray  # (d, Q) bool: the truth is among the nearest five
    counted: np.ndarray  # (d, Q) bool: the query is none of the support
    classes: np.ndarray  # (K,) int64, the classes in the support
    rows: np.ndarray  # (Q,) int64, which of the given queries (or embeddings) they are

    @property
    def hits(self) -> np.ndarray:
        """(d, Q) bool, rightly classified and counted."""
        right: np.ndarray = (self.predicted == self.truth) & self.counted
        return right

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """(d,) micro accuracies."""
        value: NDArray[np.float64] = self.hits.sum(1) / self.counted.sum(1)
        return value


def nearest_centroid(
    embeddings: Features,
    labels: Features | Sequence[int],
    *,
    shots: int,
    draws: int,
    seed: int,
    queries: Features | None = None,
    query_labels: Features | Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Accuracy of nearest-centroid classification in each draw.

    Features are L2-normalized. In each draw `shots` random images of every class are the support; all other images, or
    the given queries, are classified. The support's mean is subtracted from both, both are normalized again, and a
    query takes the class whose mean (not normalized) is nearest in Euclidean distance. Computed in float64, on the
    features' device.

    Classes that are too small are left out with their queries: `left_out_classes` names them.

    Args:
        embeddings: (N, C) features.
        labels: (N,) classes, integers from 0 up.
        shots: support images of each class.
        draws: how often the support is drawn; draw i is the same however many follow.
        seed: seed of the draws, 0 or more.
        queries: (Q, C) features of separate queries.
        query_labels: (Q,) their classes.

    Returns:
        (draws,) micro accuracies between 0 and 1.

    Raises:
        ValueError: shapes that do not fit, shots or draws below 1, fewer than 2 classes that are large enough.
    """
    task = _Task(embeddings, labels, shots, draws, queries, query_labels)
    right = np.zeros(draws, dtype=np.int64)
    for draw, (rows, mean, centroids) in enumerate(task.supports(draws, seed)):
        hits = task.queries.hits(mean, centroids)
        if queries is None:
            hits[rows.flatten()] = False  # the support is no query
        right[draw] = int(hits.sum())
    return right / (len(task.queries.truth) - (len(task.kept) * shots if queries is None else 0))


def centroid_outcomes(
    embeddings: Features,
    labels: Features | Sequence[int],
    *,
    shots: int,
    draws: int,
    seed: int,
    queries: Features | None = None,
    query_labels: Features | Sequence[int] | None = None,
) -> Outcomes:
    """The answers of `nearest_centroid`, with the same arguments and errors, query by query."""
    task = _Task(embeddings, labels, shots, draws, queries, query_labels)
    count = len(task.queries.truth)
    predicted = np.empty((draws, count), dtype=np.int32)
    among, counted = np.empty((draws, count), dtype=bool), np.ones((draws, count), dtype=bool)
    for draw, (rows, mean, centroids) in enumerate(task.supports(draws, seed)):
        outcome = task.queries.answers(mean, centroids)
        predicted[draw] = task.kept[outcome.predicted.cpu().numpy()]
        among[draw] = outcome.among_top.cpu().numpy()
        if queries is None:
            counted[draw, rows.flatten().numpy()] = False
    truth = task.kept[task.queries.truth.cpu().numpy()]
    return Outcomes(
        truth=truth, predicted=predicted, among_top=among, counted=counted, classes=task.kept, rows=task.asked
    )


class _Task:
    """Support and queries of the classes that are large enough."""

    def __init__(
        self,
        embeddings: Features,
        labels: Features | Sequence[int],
        shots: int,
        draws: int,
        queries: Features | None,
        query_labels: Features | Sequence[int] | None,
    ) -> None:
        features = check_features(embeddings, "embeddings")
        label = check_labels(labels, len(features), "labels")
        if shots < 1 or draws < 1:
            raise ValueError(f"shots and draws must be at least 1, not {shots} and {draws}")
        if (queries is None) != (query_labels is None):
            raise ValueError("queries and query_labels go together: give both or neither")
        classes, counts = np.unique(label, return_counts=True)
        self.kept = kept = classes[counts >= (shots if queries is not None else shots + 1)]
        if len(kept) < 2:
            raise ValueError(f"{len(kept)} of {len(classes)} classes have images enough for {shots} shots; 2 must have")
        inside = np.isin(label, kept)
        self.asked = np.flatnonzero(inside)
        self.features, self.label = features[torch.from_numpy(inside)], np.searchsorted(kept, label[inside])
        asked, asked_label = self.features, self.label
        if queries is not None and query_labels is not None:
            asked = check_features(queries, "queries")
            asked_label = check_labels(query_labels, len(asked), "query_labels")
            if asked.shape[1] != features.shape[1]:
                raise ValueError(f"queries have width {asked.shape[1]}, embeddings {features.shape[1]}")
            inside = np.isin(asked_label, kept)
            if not inside.any():
                raise ValueError("no query is of a class in the support")
            self.asked = np.flatnonzero(inside)
            asked, asked_label = asked[torch.from_numpy(inside)], np.searchsorted(kept, asked_label[inside])
        self.shots = shots
        truth = torch.from_numpy(asked_label).to(features.device)
        self.queries = Queries(asked.to(features.device), truth)

    def supports(self, draws: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each draw the support's rows (K, shots), its mean (C,) and the class means (K, C), in float64."""
        for draw in range(draws):
            rows = torch.from_numpy(draw_support(self.label, shots=self.shots, seed=seed, draw=draw))
            yield rows, *class_means(self.features, rows)


def class_means(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The support's mean, and the class means of the support after centering and normalizing, in float64.

    Args:
        features: (N, C); rows: (K, shots), the support in it.

    Returns:
        (C,) and (K, C).
    """
    block = max(1, CHUNK // (rows.shape[1] * features.shape[1]))
    parts = [normalize(features[part].double(), dim=-1) for part in torch.split(rows, block)]
    mean = sum((part.sum((0, 1)) for part in parts), torch.zeros_like(parts[0][0, 0])) / rows.numel()
    return mean, torch.cat([normalize(part - mean, dim=-1).mean(1) for part in parts])


def draw_support(label: np.ndarray, *, shots: int, seed: int, draw: int) -> np.ndarray:
    """The support of one draw: (K, shots) rows, `shots` random ones of each class.

    Args:
        label: (N,) class numbers 0 .. K-1, each at least `shots` times.
    """
    chance = np.random.default_rng([seed, draw]).random(len(label))
    by_class = np.lexsort((chance, label))
    starts = np.concatenate([[0], np.cumsum(np.bincount(label))[:-1]])
    rows: np.ndarray = by_class[starts[:, None] + np.arange(shots)]
    return rows


def left_out_classes(
    labels: Features | Sequence[int], *, shots: int, query_labels: Features | Sequence[int] | None = None
) -> tuple[int, ...]:
    """The classes that `nearest_centroid` leaves out: too few images for the support (and a query), sorted."""
    label = check_labels(labels, None, "labels")
    classes, counts = np.unique(label, return_counts=True)
    if query_labels is None:
        return tuple(classes[counts <= shots].tolist())
    asked = np.unique(check_labels(query_labels, None, "query_labels"))
    return tuple(np.union1d(classes[counts < shots], np.setdiff1d(asked, classes)).tolist())
