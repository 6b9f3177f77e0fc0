"""What frozen features reach: a row for each kind of features, measured on the same photographs and the same draws."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.fewshot import Features, interval, left_out_classes, nearest_centroid
from umbel.evaluation.knn import vote
from umbel.run import UserError

SUPPORT, QUERIES = ("train", "val"), ("test",)


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """What one kind of features reaches; accuracies between 0 and 1."""

    name: str
    shots: int
    draws: int
    accuracies: list[float]
    """Nearest-centroid accuracy of each draw."""
    mean: float
    interval: float
    """Half the width of the 95 % interval of the mean over draws."""
    knn: float
    """Accuracy of the weighted vote."""
    knn_plain: float
    """Accuracy of the majority."""
    k: int
    seconds: float
    """Time of the probing itself, without the embedding."""
    left_out: list[int]
    """Classes that are too small for the shots."""


def probe(
    features: Mapping[str, Embeddings], *, shots: int, draws: int, seed: int, k: int, device: str = "cpu"
) -> list[ProbeRow]:
    """A row for each kind of features of the same photographs.

    Raises:
        UserError: no labels, different photographs, or classes too small.
    """
    rows, photographs = [], next(iter(features.values())).keys
    for name, embeddings in features.items():
        if embeddings.keys != photographs:
            raise UserError(f"the features of the {name} are of other photographs: give the --data that was embedded.")
        support, queries = divide(embeddings)
        given = torch.from_numpy(support.features).to(device), support.label
        asked = (None, None) if queries is None else (torch.from_numpy(queries.features).to(device), queries.label)
        try:
            rows.append(probe_features(name, *given, *asked, shots=shots, draws=draws, seed=seed, k=k))
        except ValueError as error:
            raise UserError(f"these photographs cannot be probed: {error}.") from error
    return rows


def divide(embeddings: Embeddings) -> tuple[Embeddings, Embeddings | None]:
    """Labeled photographs of train and val, and those of test; without both, all labeled ones and None.

    Raises:
        UserError: none has a label.
    """
    labeled = np.flatnonzero(embeddings.label >= 0)
    if not len(labeled):
        raise UserError("the photographs have no labels: a probe needs class folders, or shards with .cls members.")
    chosen = embeddings.take(labeled)
    there = {embeddings.splits[number] for number in np.unique(chosen.split)}
    if there & set(SUPPORT) and there & set(QUERIES):
        return chosen.of(*SUPPORT), chosen.of(*QUERIES)
    return chosen, None


def probe_features(
    name: str,
    support: Features,
    support_labels: np.ndarray,
    queries: Features | None,
    query_labels: np.ndarray | None,
    *,
    shots: int,
    draws: int,
    seed: int,
    k: int,
) -> ProbeRow:
    """Measure one kind of features.

    Without queries those of the few-shot draws are the rest of the support, and k-NN leaves one out. A query whose
    class no neighbor can have does not count in k-NN.

    Args:
        support: (N, C); support_labels: (N,); queries: (Q, C); query_labels: (Q,).

    Raises:
        ValueError: see `nearest_centroid` and `interval` (2 draws at least).
    """
    started = time.perf_counter()
    accuracies = nearest_centroid(
        support, support_labels, shots=shots, draws=draws, seed=seed, queries=queries, query_labels=query_labels
    )
    mean, half = interval(accuracies)
    classes, counts = np.unique(support_labels, return_counts=True)
    truth = support_labels if query_labels is None else query_labels
    votes = vote(support, support_labels, queries=queries, k=k)
    possible = np.isin(truth, classes[counts > 1] if query_labels is None else classes)
    weighted, plain = votes.of(possible).accuracy(truth[possible])
    return ProbeRow(
        name=name,
        shots=shots,
        draws=draws,
        accuracies=accuracies.tolist(),
        mean=mean,
        interval=half,
        knn=weighted,
        knn_plain=plain,
        k=k,
        seconds=round(time.perf_counter() - started, 3),
        left_out=list(left_out_classes(support_labels, shots=shots, query_labels=query_labels)),
    )


def table(rows: Sequence[ProbeRow]) -> str:
    """The rows as aligned text, in percent."""
    first = rows[0]
    lines = [("features", f"{first.shots}-shot centroid, {first.draws} draws", f"{first.k}-NN weighted", "plain")]
    for row in rows:
        centroid = f"{100 * row.mean:.1f} ± {100 * row.interval:.1f} %"
        lines.append((row.name, centroid, f"{100 * row.knn:.1f} %", f"{100 * row.knn_plain:.1f} %"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )
