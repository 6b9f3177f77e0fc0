"""How well codes retrieve: mean average precision by stated conventions, and the codes' own health."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from umbel.evaluation.hashing.codes import pack, unpack
from umbel.evaluation.hashing.search import asymmetric_search, cosine_search, hamming_search
from umbel.evaluation.hashing.stored import Hasher
from umbel.evaluation.measures import Denominator, average_precision_at_k

DATABASE_SPLITS, QUERY_SPLITS = ("train", "val"), ("test",)
QUERIES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Convention:
    """What a mean average precision means; a relevant photograph is one of the same class."""

    k: int = 1000
    """Ranks that count."""
    denominator: Denominator = "found"
    """AP is divided by the relevant photographs found in the top k, by min(k, R), or by R ("all")."""

    def __str__(self) -> str:
        divisor = {"found": "the relevant found", "min": "min(K, R)", "all": "all R relevant"}[self.denominator]
        return f"mAP@{self.k}, precision summed over the relevant ranks / {divisor}, ties by the lowest row"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Labeled queries and a labeled database that share no photograph."""

    queries: np.ndarray  # (Q,) int64 rows of the set
    database: np.ndarray  # (N,) int64 rows of the set
    query_label: np.ndarray  # (Q,) int64
    database_label: np.ndarray  # (N,) int64


@dataclass(frozen=True, kw_only=True)
class CodeHealth:
    """Whether bits carry information of their own."""

    imbalance: float
    """Largest distance of a bit's share of ones from 1/2."""
    correlation: float
    """Mean absolute correlation of two bits; constant bits are left out."""
    constant: int
    """Bits that are the same for all photographs."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One row of the table."""

    name: str
    bits: int | None
    """None for float features."""
    distance: str
    """cosine, Hamming (symmetric) or asymmetric."""
    map: float
    """Between 0 and 1."""
    health: CodeHealth | None
    """Of the database's codes; None for float features."""


def make_task(label: np.ndarray, split: np.ndarray, splits: tuple[str, ...]) -> Task:
    """Queries from test, database from train and val; photographs without a label are left out of both."""
    rows = []
    for wanted in (QUERY_SPLITS, DATABASE_SPLITS):
        numbers = [number for number, name in enumerate(splits) if name in wanted]
        rows.append(np.flatnonzero(np.isin(split, numbers) & (label >= 0)))
    queries, database = rows
    return Task(queries=queries, database=database, query_label=label[queries], database_label=label[database])


def score_codes(
    name: str,
    packed: np.ndarray,
    bits: int,
    task: Task,
    convention: Convention,
    *,
    logits: np.ndarray | None = None,
) -> list[Score]:
    """Symmetric Hamming and, with the queries' logits (Q, K), asymmetric retrieval by codes (all, ceil(K / 8))."""
    database = packed[task.database]
    health = code_health(unpack(database, bits))

    def score(distance: str, queries: np.ndarray, search: Search) -> Score:
        value = mean_average_precision(queries, database, search, task, convention)
        return Score(name=name, bits=bits, distance=distance, map=value, health=health)

    scores = [score("Hamming", packed[task.queries], hamming_search)]
    if logits is not None:
        scores.append(score("asymmetric", logits, asymmetric_search))
    return scores


def score_hasher(name: str, hasher: Hasher, features: np.ndarray, task: Task, convention: Convention) -> list[Score]:
    """Both kinds of retrieval by a fitted method on features (all, C)."""
    logits = hasher.logits(features)
    return score_codes(name, pack(logits > 0), hasher.bits, task, convention, logits=logits[task.queries])


def score_features(features: np.ndarray, task: Task, convention: Convention) -> list[Score]:
    """What the codes are measured against: cosine on the float features as they are, and centered on the database."""
    queries, database = features[task.queries], features[task.database]
    mean = database.mean(0)
    scores = []
    for name, shift in (("float features", 0), ("float features, centered", mean)):
        value = mean_average_precision(queries - shift, database - shift, cosine_search, task, convention)
        scores.append(Score(name=name, bits=None, distance="cosine", map=value, health=None))
    return scores


Search = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def mean_average_precision(
    queries: np.ndarray, database: np.ndarray, search: Search, task: Task, convention: Convention
) -> float:
    """The mean over queries, which are searched for in blocks."""
    # R is counted in the whole ranking; "found" needs its top alone.
    depth = convention.k if convention.denominator == "found" else len(database)
    values = []
    for first in range(0, len(queries), QUERIES_AT_ONCE):
        block = slice(first, first + QUERIES_AT_ONCE)
        _, rows = search(queries[block], database, depth)
        relevance = task.database_label[rows] == task.query_label[block, None]
        values.append(average_precision_at_k(relevance, convention.k, denominator=convention.denominator))
    return float(np.concatenate(values).mean())


def code_health(bits: np.ndarray) -> CodeHealth:
    """Balance and correlation of codes, (N, K) bool."""
    share = bits.mean(0)
    varying = (share > 0) & (share < 1)
    count = int(varying.sum())
    correlation = 0.0
    if count > 1:
        matrix = np.abs(np.corrcoef(bits[:, varying], rowvar=False))
        correlation = float((matrix.sum() - np.trace(matrix)) / (count * (count - 1)))
    return CodeHealth(
        imbalance=float(np.abs(share - 0.5).max()), correlation=correlation, constant=bits.shape[1] - count
    )
