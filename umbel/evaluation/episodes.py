"""Episodic few-shot accuracy: N species at a time, K photographs of each, many episodes (arXiv 1703.05175).

Each episode is classified as by `nearest_centroid`; all of a block of episodes are computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from umbel.evaluation.feature_checks import Features, check_features, check_labels

# Numbers in one temporary tensor: 32 MiB in float64.
CHUNK = 1 << 22
QUERIES = 15


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Accuracies of E episodes, and what an episode was."""

    accuracies: NDArray[np.float64]  # (E,)
    ways: int
    shots: int
    queries: int
    """Of each species."""


def episodic(
    embeddings: Features,
    labels: Features | Sequence[int],
    *,
    ways: int,
    shots: int,
    episodes: int,
    seed: int,
    per_class: int = QUERIES,
    queries: Features | None = None,
    query_labels: Features | Sequence[int] | None = None,
) -> Episodes:
    """Classify `per_class` queries of each of `ways` random classes by `shots` support images of each.

    Episode i depends on the labels, the settings and the seed alone, however many follow. Where fewer than `ways`
    classes have images enough, each class asks fewer queries; where even one is too many, an episode has fewer classes.

    Args:
        embeddings: (N, C) features, of which the support is drawn, and without `queries` the queries too.
        labels: (N,) classes, integers from 0 up.
        queries: (Q, C); query_labels: (Q,).

    Raises:
        ValueError: shapes that do not fit, numbers below 1 (ways: 2), fewer than 2 classes that are large enough.
    """
    if min(shots, episodes, per_class) < 1 or ways < 2:
        raise ValueError(
            f"shots, episodes and per_class must be at least 1 and ways 2, not {shots}, {episodes}, {per_class}, {ways}"
        )
    features = check_features(embeddings, "embeddings")
    given = _ByClass(check_labels(labels, len(features), "labels"))
    asked, asking = features, given
    if queries is not None and query_labels is not None:
        asked = check_features(queries, "queries").to(features.device)
        asking = _ByClass(check_labels(query_labels, len(asked), "query_labels"))
    apart = asked is not features
    classes = np.intersect1d(given.classes, asking.classes)
    support, room = given.counts(classes), asking.counts(classes) - (0 if apart else shots)
    room = np.where(support >= shots, room, 0)
    if (room >= 1).sum() < 2:
        raise ValueError(f"{(room >= 1).sum()} of {len(classes)} classes have images enough for episodes; 2 must have")
    ways = min(ways, int((room >= 1).sum()))
    per_class = min(per_class, int(np.sort(room)[-ways]))
    classes = classes[room >= per_class]
    accuracies = np.empty(episodes)
    at_once = max(1, CHUNK // (ways * (shots + per_class) * features.shape[1]))
    for first in range(0, episodes, at_once):
        numbers = range(first, min(first + at_once, episodes))
        streams = [np.random.default_rng([seed, number]) for number in numbers]
        chosen = np.stack([stream.permutation(len(classes))[:ways] for stream in streams])  # (E, W)
        ours = classes[chosen]
        if apart:
            support_rows = given.draw(ours, shots, streams)
            query_rows = asking.draw(ours, per_class, streams)
        else:
            support_rows, query_rows = np.split(given.draw(ours, shots + per_class, streams), [shots], axis=2)
        s = normalize(features[torch.from_numpy(support_rows)].double(), dim=-1)  # (E, W, S, C)
        mean = s.mean((1, 2))
        centroids = normalize(s - mean[:, None, None], dim=-1).mean(2)  # (E, W, C)
        q = normalize(asked[torch.from_numpy(query_rows)].double(), dim=-1).flatten(1, 2)  # (E, W * Q, C)
        q = normalize(q - mean[:, None], dim=-1)
        distance = centroids.square().sum(-1)[:, None] - 2 * q @ centroids.transpose(1, 2)
        truth = torch.arange(ways, device=q.device).repeat_interleave(per_class)
        accuracies[first : first + len(numbers)] = (distance.argmin(-1) == truth).double().mean(1).cpu().numpy()
    return Episodes(accuracies=accuracies, ways=ways, shots=shots, queries=per_class)


class _ByClass:
    """Rows in the order of their classes."""

    def __init__(self, label: NDArray[np.int64]) -> None:
        self.rows = np.argsort(label, kind="stable")
        self.classes, self.first, self.count = np.unique(label[self.rows], return_index=True, return_counts=True)

    def counts(self, classes: np.ndarray) -> np.ndarray:
        """(K,) images of some of the classes."""
        counts: np.ndarray = self.count[np.searchsorted(self.classes, classes)]
        return counts

    def draw(self, classes: np.ndarray, size: int, streams: Sequence[np.random.Generator]) -> np.ndarray:
        """Different random rows of each class, in random order: (E, W, size) for classes (E, W).

        Floyd's sampling (Communications of the ACM 30(9), 1987): no work for the rows that are not drawn.
        """
        at = np.searchsorted(self.classes, classes)
        count = self.count[at]  # (E, W)
        chance = np.stack([stream.random((2, classes.shape[1], size)) for stream in streams])
        taken = np.empty((*classes.shape, size), dtype=np.int64)
        for step in range(size):
            last = count - size + step
            wanted = (chance[:, 0, :, step] * (last + 1)).astype(np.int64)
            again = (taken[..., :step] == wanted[..., None]).any(-1)
            taken[..., step] = np.where(again, last, wanted)
        # The last ones of a class come late in Floyd's order: without this they would be queries more often.
        taken = np.take_along_axis(taken, np.argsort(chance[:, 1], axis=-1), axis=-1)
        rows: np.ndarray = self.rows[self.first[at][..., None] + taken]
        return rows
