"""How good labels are against the truth: accuracy, macro precision and recall, and what of the data is kept.

The measures and the three subsets are those of arXiv 2406.03356.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umbel.data.votes.aggregation import Aggregation
from umbel.data.votes.cells import pairs
from umbel.data.votes.encoded import Votes
from umbel.data.votes.ids import Codes, factorize, places, refuse_repeats

SUBSETS = ("all", "2 votes or more", "disagreement")


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Shares from 0 to 1 over the observations of a subset."""

    observations: int
    accuracy: float
    """Share of observations whose label is valid and right."""
    accuracy_of_valid: float
    """Share of valid labels that are right; nan without any."""
    precision: float
    """Mean over the species of the truth: share of valid labels of the species that are right; 0 without any."""
    recall: float
    """Mean over the species of the truth: share of its observations whose label is valid and right."""
    kept: float
    """Share of observations that are valid."""
    species_kept: float
    """Share of the species of the truth that are the label of a valid observation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """The true species of some observations."""

    row: NDArray[np.int64]
    """(T,) places of the observations among those of the votes."""
    code: Codes
    """(T,) place of the species in `names`."""
    names: NDArray[Any]
    """Distinct species, sorted."""
    unknown: int
    """Observations with a truth and without votes, which are left out."""


def match_truth(votes: Votes, observations: Any, labels: Any) -> Truth:
    """The truth of observations that have votes; missing species and -1 are no truth.

    Raises:
        ValueError: nothing is left, ids of a wrong kind, or an observation with two truths.
    """
    row = places(observations, votes.observations)
    if labels.null_count:
        row, labels = row[np.asarray(labels.is_valid())], labels.drop_null()
    names, code = _labels(labels)
    told = code >= 0
    known = told & (row >= 0)
    if not known.any():
        raise ValueError("the truth names no observation that has votes")
    refuse_repeats(row[known], votes.observations, "true species")
    unknown = int(np.count_nonzero(told & ~known))
    return Truth(row=row[known].astype(np.int64), code=code[known], names=names, unknown=unknown)


def _labels(labels: Any) -> tuple[NDArray[Any], Codes]:
    """The species and each row's; -1 for a row that is -1."""
    if labels.type != "int64":
        return factorize(labels, "species")
    numbers = labels.to_numpy()
    told = numbers >= 0
    names, code = factorize(numbers[told], "species")
    codes = np.full(len(numbers), -1, dtype=np.int32)
    codes[told] = code
    return names, codes


def subsets(votes: Votes, truth: Truth) -> dict[str, NDArray[np.bool_]]:
    """(T,) which observations of the truth belong to each of SUBSETS; disagreement: votes name two species or more."""
    count = np.bincount(votes.observation, minlength=len(votes.observations))[truth.row]
    _, keys = pairs(votes.observation, votes.label, len(votes.labels))
    species = np.bincount(keys // len(votes.labels), minlength=len(votes.observations))[truth.row]
    return dict(zip(SUBSETS, (np.ones(len(count), dtype=bool), count >= 2, species >= 2), strict=True))


def measure(found: Aggregation, truth: Truth, subset: NDArray[np.bool_]) -> Measures:
    """Measure labels on a subset, (T,), of the truth."""
    said, valid = said_and_valid(found, truth)
    said, valid, code = said[subset], valid[subset], truth.code[subset]
    if not len(code):
        nothing = float("nan")
        return Measures(
            observations=0, accuracy=nothing, accuracy_of_valid=nothing, precision=nothing, recall=nothing,
            kept=nothing, species_kept=nothing,
        )  # fmt: skip
    size = len(truth.names)
    right = valid & (said == code)
    there = np.bincount(code, minlength=size)
    hits = np.bincount(code[right], minlength=size)
    named = np.bincount(said[valid & (said >= 0)], minlength=size)
    species = there > 0
    return Measures(
        observations=len(code),
        accuracy=float(right.mean()),
        accuracy_of_valid=float(right.sum() / valid.sum()) if valid.any() else float("nan"),
        precision=float((hits / np.maximum(named, 1))[species].mean()),
        recall=float((hits[species] / there[species]).mean()),
        kept=float(valid.mean()),
        species_kept=float((named[species] > 0).mean()),
    )


def said_and_valid(found: Aggregation, truth: Truth) -> tuple[Codes, NDArray[np.bool_]]:
    """(T,) labels as places in the truth's species, -1 for others and for none; (T,) validity."""
    place = np.append(places(found.labels, truth.names), np.int32(-1))
    return place[found.label_code[truth.row]], found.valid[truth.row]


def accuracy_against_kept(found: Aggregation, truth: Truth) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a threshold on conf would keep, from the strictest on: shares of observations kept and their accuracy.

    Observations of one conf are kept together, those without a label never. Both arrays have an entry for each distinct
    conf.
    """
    said, _ = said_and_valid(found, truth)
    labeled = np.flatnonzero(found.label_code[truth.row] >= 0)
    conf = found.conf[truth.row][labeled]
    order = np.argsort(-conf, kind="stable")
    right = np.cumsum((said == truth.code)[labeled][order])
    ends = np.flatnonzero(np.append(np.diff(conf[order]) != 0, True)[: len(order)])
    kept = ends + 1
    return kept / len(said), right[ends] / kept
