"""Nearest neighbors by features in a report: the same queries for all backbones, drawn by a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.knn import neighbors
from umbel.evaluation.probe_rows import QUERIES, SUPPORT
from umbel.evaluation.report_album import Album, class_name
from umbel.evaluation.report_html import Markup, aside, join, tag
from umbel.evaluation.report_rows import NEIGHBORS, one_of_each, row_of_photographs
from umbel.evaluation.report_words import percent
from umbel.random_stream import Purpose, stream

MEASURED = 1000


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Queries with the photographs whose features are nearest; all numbers are rows of the embeddings."""

    queries: np.ndarray  # (Q,) int64
    neighbors: np.ndarray  # (Q, k) int64, nearest first
    cosines: np.ndarray  # (Q, k)


def divided(embeddings: Embeddings) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of the labeled photographs that are searched, and of the queries: train and val, and test, where they are.

    Without both splits each photograph is searched for among all others: twice the same rows. None without labels.
    """
    labeled = np.flatnonzero(embeddings.label >= 0)
    of_split = [np.isin(embeddings.split[labeled], _numbers(embeddings, names)) for names in (SUPPORT, QUERIES)]
    if of_split[0].any() and of_split[1].any():
        return labeled[of_split[0]], labeled[of_split[1]]
    return (labeled, labeled) if len(labeled) > 1 else None


def _numbers(embeddings: Embeddings, names: tuple[str, ...]) -> list[int]:
    return [number for number, name in enumerate(embeddings.splits) if name in names]


def nearest(embeddings: Embeddings, *, seed: int, k: int = NEIGHBORS) -> Nearest | None:
    """Search for MEASURED queries drawn by the seed; None without labels."""
    parts = divided(embeddings)
    if parts is None:
        return None
    searched, asked = parts
    queries = stream(seed, 0, Purpose.ORDER).permutation(asked)[:MEASURED]
    alone = searched is asked
    # Among all others: a photograph is its own nearest, at any place where there are equals.
    cosines, rows = neighbors(embeddings.features[searched], queries=embeddings.features[queries], k=k + alone)
    found = searched[rows]
    if alone:
        own = found == queries[:, None]
        own[~own.any(1), -1] = True
        shape = len(queries), found.shape[1] - 1
        found, cosines = found[~own].reshape(shape), cosines[~own].reshape(shape)
    return Nearest(queries=queries, neighbors=found, cosines=cosines)


def nearest_photographs(sets: Mapping[str, Embeddings], album: Album, *, seed: int, rows: int) -> Markup:
    """Rows of pictures, for each query one of every set of features of the same photographs."""
    found = {name: searched for name, of in sets.items() if (searched := nearest(of, seed=seed)) is not None}
    if not found:
        return aside("There are no nearest neighbors: the embedded photographs have no labels.")
    first = next(iter(sets.values()))
    queries = next(iter(found.values())).queries
    parts = [tag("p", _told(sets, found))]
    for place in one_of_each(first.label[queries])[:rows]:
        query = int(queries[place])
        if len(found) > 1:
            parts.append(tag("h3", class_name(first.classes, int(first.label[query]))))
        for name, searched in found.items():
            notes = [f"cos {cosine:.2f}" for cosine in searched.cosines[place].tolist()]
            row = row_of_photographs(sets[name], album, query, searched.neighbors[place].tolist(), notes)
            parts += [tag("p", name, class_="of-set"), row] if len(found) > 1 else [row]
    return join(*parts)


def _told(sets: Mapping[str, Embeddings], found: Mapping[str, Nearest]) -> str:
    shares = {}
    for name, searched in found.items():
        label = sets[name].label
        shares[name] = percent(float((label[searched.neighbors] == label[searched.queries][:, None]).mean()))
    asked = len(next(iter(found.values())).queries)
    told = "The nearest by the cosine of their features. The queries are drawn by the seed, one of each species, not "
    told += f"picked for their results: over {asked:,} queries, "
    if len(shares) == 1:
        return told + f"{next(iter(shares.values()))} of the first {NEIGHBORS} neighbors are of the query's species."
    each = "; ".join(f"{name}: {share}" for name, share in shares.items())
    return told + f"this share of the first {NEIGHBORS} neighbors is of the query's species: {each}."
