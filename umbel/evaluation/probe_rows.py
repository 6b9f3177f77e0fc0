"""What frozen features reach: a row for each kind of features, measured on the same photographs and the same draws."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.feature_checks import Features, check_features
from umbel.evaluation.fewshot import Outcomes, centroid_outcomes, interval, left_out_classes
from umbel.evaluation.knn import Votes, vote
from umbel.evaluation.probe_details import Task, answers, centroid_details, more_details
from umbel.evaluation.probe_settings import ProbeSettings
from umbel.evaluation.sample_metadata import NOTHING, SampleMetadata
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


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One kind of features: its row, what else was asked for, and the answers that comparisons need."""

    row: ProbeRow
    details: dict[str, Any]
    """By the keys of probe.json."""
    absent: list[str]
    """Sentences on what cannot be told."""
    outcomes: Outcomes
    """Nearest centroid with the first of the shots."""
    knn_hits: np.ndarray  # (Q,) bool, the weighted vote

    def record(self) -> dict[str, Any]:
        """The row of probe.json."""
        return dataclasses.asdict(self.row) | self.details


def probe(
    features: Mapping[str, Embeddings], *, shots: int, draws: int, seed: int, k: int, device: str = "cpu"
) -> list[ProbeRow]:
    """A row for each kind of features of the same photographs.

    Raises:
        UserError: no labels, different photographs, or classes too small.
    """
    settings = ProbeSettings(shots=(shots,), draws=draws, seed=seed, k=k)
    return [measured.row for measured in measure(features, settings, device=device)]


def measure(
    features: Mapping[str, Embeddings],
    settings: ProbeSettings,
    *,
    device: str = "cpu",
    metadata: SampleMetadata = NOTHING,
) -> list[Measured]:
    """Everything that was asked for, of each kind of features of the same photographs.

    Args:
        metadata: of the photographs, in the order of the features.

    Raises:
        UserError: no labels, different photographs, or classes too small.
    """
    found, first = [], next(iter(features.values()))
    for name, embeddings in features.items():
        if embeddings.keys != first.keys:
            raise UserError(f"the features of the {name} are of other photographs: give the --data that was embedded.")
        if (embeddings.label != first.label).any() or (_split_names(embeddings) != _split_names(first)).any():
            raise UserError(
                f"the features of the {name} have other labels or splits: give the --data that was embedded."
            )
        try:
            found.append(_measure(name, _task(embeddings, metadata, device), settings))
        except ValueError as error:
            raise UserError(f"these photographs cannot be probed: {error}.") from error
    return found


def divide(embeddings: Embeddings) -> tuple[Embeddings, Embeddings | None]:
    """Labeled photographs of train and val, and those of test; without both, all labeled ones and None.

    Raises:
        UserError: none has a label.
    """
    given, asked = divided_rows(embeddings)
    return embeddings.take(given), None if asked is None else embeddings.take(asked)


def divided_rows(embeddings: Embeddings) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows of `divide`: (N,) and (Q,) or None.

    Raises:
        UserError: none has a label.
    """
    labeled = np.flatnonzero(embeddings.label >= 0)
    if not len(labeled):
        raise UserError("the photographs have no labels: a probe needs class folders, or shards with .cls members.")
    names = np.array(embeddings.splits)[embeddings.split[labeled]]
    support, queries = np.isin(names, SUPPORT), np.isin(names, QUERIES)
    if support.any() and queries.any():
        return labeled[support], labeled[queries]
    return labeled, None


def _split_names(embeddings: Embeddings) -> np.ndarray:
    names: np.ndarray = np.array(embeddings.splits)[embeddings.split]
    return names


def _task(embeddings: Embeddings, metadata: SampleMetadata, device: str) -> Task:
    given, asked = divided_rows(embeddings)
    from_val = np.array(embeddings.splits)[embeddings.split[given]] == "val"
    organs = metadata.organs
    return Task(
        support=torch.from_numpy(embeddings.features[given]).to(device),
        support_labels=embeddings.label[given],
        queries=None if asked is None else torch.from_numpy(embeddings.features[asked]).to(device),
        query_labels=None if asked is None else embeddings.label[asked],
        validation=from_val if from_val.any() and not from_val.all() else None,
        metadata=dataclasses.replace(
            metadata, organs=organs and tuple(organs[row] for row in (given if asked is None else asked))
        ),
    )


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
    task = Task(
        support=check_features(support, "support"),
        support_labels=support_labels,
        queries=None if queries is None else check_features(queries, "queries"),
        query_labels=query_labels,
    )
    return _measure(name, task, ProbeSettings(shots=(shots,), draws=draws, seed=seed, k=k)).row


def _measure(name: str, task: Task, settings: ProbeSettings) -> Measured:
    """All of one kind of features.

    Raises:
        ValueError: see `probe_features`.
    """
    started = time.perf_counter()
    labels, asked_labels = task.support_labels, task.query_labels
    of_shots = {}
    for shots in settings.shots:
        of_shots[shots] = centroid_outcomes(
            task.support, labels, shots=shots, draws=settings.draws, seed=settings.seed,
            queries=task.queries, query_labels=asked_labels,
        )  # fmt: skip
    outcomes = of_shots[settings.shots[0]]
    mean, half = interval(outcomes.accuracies)
    possible, truth = _possible(labels, asked_labels)
    votes = vote(task.support, labels, queries=task.queries, k=settings.k).of(possible)
    weighted, plain = votes.accuracy(truth[possible])
    details: dict[str, Any] = {
        "centroid": [centroid_details(outcomes, task, shots) for shots, outcomes in of_shots.items()],
        "nearest": _nearest(votes, truth[possible], possible, task),
    }
    more, absent = more_details(task, settings)
    return Measured(
        row=ProbeRow(
            name=name,
            shots=settings.shots[0],
            draws=settings.draws,
            accuracies=outcomes.accuracies.tolist(),
            mean=mean,
            interval=half,
            knn=weighted,
            knn_plain=plain,
            k=settings.k,
            seconds=round(time.perf_counter() - started, 3),
            left_out=list(left_out_classes(labels, shots=settings.shots[0], query_labels=asked_labels)),
        ),
        details=details | more,
        absent=absent,
        outcomes=outcomes,
        knn_hits=votes.weighted == truth[possible],
    )


def _possible(labels: np.ndarray, asked: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Which queries, (Q,) bool, a neighbor can be right about, and the classes, (Q,), of all of them."""
    classes, counts = np.unique(labels, return_counts=True)
    truth = labels if asked is None else asked
    return np.isin(truth, classes[counts > 1] if asked is None else classes), truth


def _nearest(votes: Votes, truth: np.ndarray, possible: np.ndarray, task: Task) -> dict[str, Any]:
    organs = task.metadata.organs
    ours = None if organs is None else np.array(organs)[possible].tolist()
    return {
        name: answers(truth, predicted, task, task.support_labels, ours)
        for name, predicted in (("weighted", votes.weighted), ("plain", votes.plain))
    }
