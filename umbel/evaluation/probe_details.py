"""What each probe tells of one kind of features, as it stands in probe.json (umbel.evaluation.probe_file)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umbel.evaluation.classification import calibration_error, class_rows, confusions, macro, micro
from umbel.evaluation.episodes import episodic
from umbel.evaluation.estimates import over_draws
from umbel.evaluation.fewshot import Outcomes, left_out_classes
from umbel.evaluation.groups import by_frequency, by_name
from umbel.evaluation.holdout import hold_out
from umbel.evaluation.label_free import rank_me, uniformity
from umbel.evaluation.linear import EPOCHS, linear
from umbel.evaluation.logistic import Chosen, logistic
from umbel.evaluation.open_set import rejection
from umbel.evaluation.probe_settings import ProbeSettings
from umbel.evaluation.sample_metadata import NOTHING, SampleMetadata
from umbel.evaluation.taxonomy import Taxonomy

HELD_OUT = 0.2
TOP = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Support and queries, and what is known of them."""

    support: Tensor  # (N, C)
    support_labels: np.ndarray  # (N,)
    queries: Tensor | None  # (Q, C); None: the rest of each draw, or a part that is held out
    query_labels: np.ndarray | None  # (Q,)
    validation: np.ndarray | None = None  # (N,) bool, the support's images that choose a setting; None: a fifth
    metadata: SampleMetadata = NOTHING
    """Its organs are those of the queries, or of the support where there are no queries."""


def centroid_details(outcomes: Outcomes, task: Task, shots: int) -> dict[str, Any]:
    """Nearest centroid with some shots, over all draws."""
    hits, counted = outcomes.hits, outcomes.counted
    place = np.searchsorted(outcomes.classes, outcomes.truth)
    asked, right = (_by_class(place, table, len(outcomes.classes)) for table in (counted, hits))  # (d, K)
    spread = np.zeros((3, int(outcomes.classes.max()) + 1), dtype=np.int64)
    spread[:, outcomes.classes] = asked.sum(0), right.sum(0), np.full(len(outcomes.classes), shots)
    wrong = counted & ~hits
    top = (outcomes.among_top & counted).sum(1) / counted.sum(1)
    return {
        "shots": shots,
        "micro": over_draws(outcomes.accuracies),
        "macro": over_draws((right / np.maximum(asked, 1)).sum(1) / (asked > 0).sum(1)),
        "top5": over_draws(top) if len(outcomes.classes) > TOP else None,
        "deviation": float(outcomes.accuracies.std()),
        "left_out": list(left_out_classes(task.support_labels, shots=shots, query_labels=task.query_labels)),
        "classes": class_rows(*spread),
        "confusions": confusions(np.broadcast_to(outcomes.truth, wrong.shape)[wrong], outcomes.predicted[wrong]),
        # Draws ask the same queries again: the interval is that of one draw.
        "taxonomy": _taxonomy(task.metadata.taxonomy, outcomes.truth, outcomes.predicted, counted),
    }


def _by_class(place: np.ndarray, table: np.ndarray, classes: int) -> np.ndarray:
    """How many of (d, Q) queries are true in the table, by draw and class: (d, K) int64."""
    return np.stack([np.bincount(place[row], minlength=classes) for row in table])


def _taxonomy(taxonomy: Taxonomy | None, truth: np.ndarray, predicted: np.ndarray, counted: np.ndarray) -> Any:
    if taxonomy is None:
        return None
    return taxonomy.measure(truth[counted[0]], predicted[0][counted[0]].astype(np.int64))


def answers(
    truth: np.ndarray,
    predicted: np.ndarray,
    task: Task,
    support: np.ndarray,
    organs: list[str] | None,
) -> dict[str, Any]:
    """One answer to each query: accuracies, tables, groups.

    Args:
        truth, predicted: (Q,) classes; support: (N,) classes of the support; organs: Q.
    """
    right = truth == predicted
    told: dict[str, Any] = {"micro": micro(right), "macro": macro(truth, right), "count": len(truth)}
    size = 1 + int(max(truth.max(), support.max()))
    asked, hit, given = (np.bincount(labels, minlength=size) for labels in (truth, truth[right], support))
    told |= {"classes": class_rows(asked, hit, given), "confusions": confusions(truth, predicted)}
    told |= {"frequency": by_frequency(truth, right, support)}
    told |= {"organ": by_name(truth, right, organs) if organs else []}
    taxonomy = task.metadata.taxonomy
    return told | {"taxonomy": taxonomy.measure(truth, predicted) if taxonomy else None}


def more_details(task: Task, settings: ProbeSettings) -> tuple[dict[str, Any], list[str]]:
    """What was asked for beyond centroid and k-NN, and sentences on what cannot be told."""
    found: dict[str, Any] = {}
    absent: list[str] = []
    asked = set(settings.probes)
    given: dict[str, Any] = {"queries": task.queries, "query_labels": task.query_labels, "seed": settings.seed}
    if "episodes" in asked:
        rows = []
        for shots in settings.shots:
            made = episodic(
                task.support, task.support_labels, ways=settings.ways, shots=shots, episodes=settings.episodes, **given
            )
            rows.append(
                {"ways": made.ways, "shots": shots, "queries": made.queries, "episodes": settings.episodes}
                | {"accuracy": over_draws(made.accuracies)}
            )
        found["episodes"] = rows
    if "logistic" in asked:
        chosen, told = _classified(task, "logistic", settings.seed)
        found["logistic"] = told | {"strength": chosen.setting, "tried": chosen.tried}
    if "linear" in asked:
        chosen, told = _classified(task, "linear", settings.seed)
        found["linear"] = told | {"learning_rate": chosen.setting, "epochs": EPOCHS, "tried": chosen.tried}
    if "open-set" in asked:
        support, support_labels, queries, query_labels, _ = _apart(task, settings.seed)
        try:
            found["open_set"] = rejection(support, support_labels, queries, query_labels, seed=settings.seed)
        except ValueError as error:
            absent.append(f"unknown species cannot be rejected: {error}.")
    if "label-free" in asked:
        features = task.support if task.queries is None else torch.cat([task.support, task.queries])
        try:
            found["label_free"] = {"rankme": rank_me(features), "uniformity": uniformity(features)} | {
                "width": features.shape[1]
            }
        except ValueError as error:
            absent.append(f"RankMe and uniformity are not told: {error}.")
    return found, absent


def _apart(task: Task, seed: int) -> tuple[Tensor, np.ndarray, Tensor, np.ndarray, np.ndarray | None]:
    """Support and queries that do not meet, and what is held out: a fifth where no queries are given."""
    if task.queries is not None and task.query_labels is not None:
        return task.support, task.support_labels, task.queries, task.query_labels, None
    aside = hold_out(task.support_labels, share=HELD_OUT, seed=seed)
    kept = torch.from_numpy(~aside)
    labels = task.support_labels
    return task.support[kept], labels[~aside], task.support[torch.from_numpy(aside)], labels[aside], aside


def _classified(task: Task, kind: str, seed: int) -> tuple[Chosen, dict[str, Any]]:
    """Fit a linear classifier on the support and ask the queries of its classes."""
    support, labels, queries, truth, aside = _apart(task, seed)
    validation = task.validation if aside is None else None
    if validation is None:
        # Another seed than that of the queries, which are drawn from the same photographs where no split gives them.
        validation = hold_out(labels, share=HELD_OUT, seed=seed + 1)
    if kind == "logistic":
        chosen = logistic(support, labels, validation)
    else:
        chosen = linear(support, labels, validation, seed=seed)
    known = np.isin(truth, chosen.classes)
    queries, truth = queries[torch.from_numpy(known)], truth[known]
    place = torch.from_numpy(np.searchsorted(chosen.classes, truth)).to(queries.device)
    predicted, confidence, among = [], [], []
    block = max(1, (1 << 22) // len(chosen.classes))
    for part, own in zip(torch.split(queries, block), torch.split(place, block), strict=True):
        probability = chosen.probabilities(part)
        best, column = probability.max(1)
        among.append((probability > probability.gather(1, own[:, None])).sum(1) < TOP)
        predicted.append(column)
        confidence.append(best)
    guess = chosen.classes[torch.cat(predicted).cpu().numpy()]
    organs = task.metadata.organs
    ours = None if organs is None else np.array(organs)[slice(None) if aside is None else aside][known].tolist()
    told = answers(truth, guess, task, labels, ours)
    told["top5"] = micro(torch.cat(among).cpu().numpy()) if len(chosen.classes) > TOP else None
    told["calibration_error"] = calibration_error(torch.cat(confidence).double().cpu().numpy(), truth == guess)
    return chosen, told
