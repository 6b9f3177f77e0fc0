"""Few-shot accuracy of frozen features: nearest class mean after centering, over random draws of support images.

The protocol of "Self-Supervised Learning of Plant Image Representations" (arXiv 2604.27538). Draws depend on the labels
and the seed alone, so two backbones are compared on the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# scipy comes with scikit-learn.
from scipy.special import stdtrit  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor
from torch.nn.functional import normalize

Features = np.ndarray | Tensor
# Numbers in one temporary tensor: 32 MiB in float64.
CHUNK = 1 << 22


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
    features = check_features(embeddings, "embeddings")
    label = check_labels(labels, len(features), "labels")
    if shots < 1 or draws < 1:
        raise ValueError(f"shots and draws must be at least 1, not {shots} and {draws}")
    if (queries is None) != (query_labels is None):
        raise ValueError("queries and query_labels go together: give both or neither")
    classes, counts = np.unique(label, return_counts=True)
    kept = classes[counts >= (shots if queries is not None else shots + 1)]
    if len(kept) < 2:
        raise ValueError(f"{len(kept)} of {len(classes)} classes have images enough for {shots} shots; 2 must have")
    inside = np.isin(label, kept)
    features, label = features[torch.from_numpy(inside)], np.searchsorted(kept, label[inside])
    asked, asked_label = features, label
    if queries is not None and query_labels is not None:
        asked = check_features(queries, "queries")
        asked_label = check_labels(query_labels, len(asked), "query_labels")
        if asked.shape[1] != features.shape[1]:
            raise ValueError(f"queries have width {asked.shape[1]}, embeddings {features.shape[1]}")
        inside = np.isin(asked_label, kept)
        if not inside.any():
            raise ValueError("no query is of a class in the support")
        asked, asked_label = asked[torch.from_numpy(inside)], np.searchsorted(kept, asked_label[inside])
    truth = torch.from_numpy(asked_label).to(features.device)
    at_once = min(draws, max(1, CHUNK // (len(kept) * shots * features.shape[1])))
    right = np.zeros(draws, dtype=np.int64)
    for first in range(0, draws, at_once):
        drawn = range(first, min(first + at_once, draws))
        rows = np.stack([draw_support(label, shots=shots, seed=seed, draw=draw) for draw in drawn])
        hits = _hits(features, rows, asked.to(features.device), truth)
        if queries is None:
            # The support is no query.
            hits[torch.arange(len(rows))[:, None], torch.from_numpy(rows.reshape(len(rows), -1))] = False
        right[first : first + len(rows)] = hits.sum(1).cpu().numpy()
    return right / (len(asked) - (len(kept) * shots if queries is None else 0))


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


def _hits(features: Tensor, rows: np.ndarray, asked: Tensor, truth: Tensor) -> Tensor:
    """Which queries are classified rightly in each of d draws.

    Args:
        features: (N, C); rows: (d, K, shots), the support in it; asked: (Q, C); truth: (Q,).

    Returns:
        (d, Q) bool, on the CPU.
    """
    support = normalize(features[torch.from_numpy(rows)].double(), dim=-1)  # (d, K, shots, C)
    mean = support.mean(dim=(1, 2), keepdim=True)
    centroids = normalize(support - mean, dim=-1).mean(dim=2)  # (d, K, C)
    draws, classes, width = centroids.shape
    block = max(1, CHUNK // (draws * max(width, classes)))
    hits = []
    for first in range(0, len(asked), block):
        part = normalize(asked[first : first + block].double(), dim=-1)
        part = normalize(part - mean[:, 0], dim=-1)  # (d, block, C)
        # The squared distance without |q|^2, which is the same for all classes.
        distance = centroids.square().sum(-1)[:, None] - 2 * part @ centroids.transpose(1, 2)
        hits.append((distance.argmin(-1) == truth[first : first + block]).cpu())
    return torch.cat(hits, dim=1)


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


def interval(accuracies: np.ndarray | Sequence[float]) -> tuple[float, float]:
    """Mean over draws and half the width of its 95 % confidence interval.

    Student's t interval for the mean of independent draws: t(0.975, n - 1) s / sqrt(n). It tells how well n draws
    determine the mean over all possible supports from these very images; it does not count that the images themselves
    are a sample.

    Raises:
        ValueError: fewer than 2 draws.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs a row of at least 2 accuracies, not shape {values.shape}")
    half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def check_features(features: Any, name: str) -> Tensor:
    """Features as a tensor (N, C), on their device.

    Raises:
        ValueError: another shape, empty, or not finite.
    """
    tensor = features.detach() if isinstance(features, Tensor) else torch.from_numpy(np.ascontiguousarray(features))
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(f"{name} must be of shape (N, C), not {tuple(tensor.shape)}")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} hold numbers that are not finite")
    return tensor


def check_labels(labels: Any, count: int | None, name: str) -> NDArray[np.int64]:
    """Labels as numpy (N,) int64.

    Raises:
        ValueError: another shape or length, not whole numbers, or negative ones.
    """
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1 or (count is not None and len(array) != count):
        raise ValueError(f"{name} must be of shape ({'N' if count is None else count},), not {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers, not {array.dtype}")
    if array.size and array.min() < 0:
        raise ValueError(f"{name} must not be negative: leave out the rows without a label")
    return array.astype(np.int64)
