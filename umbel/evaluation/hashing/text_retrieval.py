"""How well words find photographs, and photographs their species' words: by codes, and by what they are rounded from.

A query in words is "a photograph of" a species; its relevant photographs are those of the species. They are searched
for among the test split: with words of the others the coder was fitted.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from umbel.evaluation.hashing.codes import pack
from umbel.evaluation.hashing.evaluate import Convention, Score, Task, mean_average_precision
from umbel.evaluation.hashing.pairs import PairedCoder
from umbel.evaluation.hashing.search import asymmetric_search, cosine_search, hamming_search

TEMPLATE = "a photograph of {}"


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Shares of the queries whose species' words are nearest among those of all species in the database."""

    name: str
    by_codes: float
    """Hamming distance of both codes; ties count for the share of the nearest that is right."""
    by_logits: float
    """Cosine of both logits, which the codes are the signs of."""
    species: int
    by_towers: float | None = None
    """Cosine of the towers' own features, before any coder; None where they have no space in common."""


def score_texts(
    name: str, coder: PairedCoder, features: np.ndarray, classes: tuple[str, ...], task: Task, convention: Convention
) -> tuple[list[Score], ZeroShot]:
    """Retrieval of the task's queries by words, and their zero-shot classification.

    Args:
        features: (all, C) of the photographs.
    """
    species = np.unique(task.database_label)
    read = coder.text_features([TEMPLATE.format(classes[label]) for label in species])  # (L, D)
    words = coder.other.logits(read)  # (L, K)
    photographs = coder.logits(features[task.queries])
    known = np.flatnonzero(np.isin(task.query_label, species))
    truth = np.searchsorted(species, task.query_label[known])
    # A species without a photograph to be found has no precision.
    asked = np.unique(truth)
    words_task = Task(
        queries=species[asked],
        database=task.queries,
        query_label=species[asked],
        database_label=task.query_label,
    )
    title, depth = f"{name}, by words", dataclasses.replace(convention, k=min(convention.k, len(task.queries)))
    asking = words[asked]
    codes = pack(photographs > 0)
    found = [
        ("Hamming", coder.bits, mean_average_precision(pack(asking > 0), codes, hamming_search, words_task, depth)),
        ("asymmetric", coder.bits, mean_average_precision(asking, codes, asymmetric_search, words_task, depth)),
        ("cosine", None, mean_average_precision(asking, photographs, cosine_search, words_task, depth)),
    ]
    scores = [
        Score(name=title, bits=bits, distance=distance, map=value, health=None) for distance, bits, value in found
    ]
    by_towers = None
    if coder.tower is not None and read.shape[1] == features.shape[1]:
        seen = features[task.queries]
        value = mean_average_precision(read[asked], seen, cosine_search, words_task, depth)
        scores.append(Score(name=f"{title}, towers alone", bits=None, distance="cosine", map=value, health=None))
        by_towers = float((_cosine(seen[known], read).argmax(1) == truth).mean())
    return scores, ZeroShot(
        name=name,
        by_codes=float(share_of_nearest(photographs[known] > 0, words > 0, truth).mean()),
        by_logits=float((_cosine(photographs[known], words).argmax(1) == truth).mean()),
        species=len(species),
        by_towers=by_towers,
    )


def share_of_nearest(codes: np.ndarray, others: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(Q, K) and (L, K) bool, (Q,) the right rows of L -> (Q,): 1 over the number of nearest if the right is one."""
    distance = (codes[:, None] != others[None]).sum(-1)
    nearest = distance == distance.min(1, keepdims=True)
    share: np.ndarray = nearest[np.arange(len(truth)), truth] / nearest.sum(1)
    return share


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unit: np.ndarray = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    return unit
