"""The species that are most often taken for each other, with photographs of both side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.knn import vote
from umbel.evaluation.report_album import Album, class_name
from umbel.evaluation.report_html import Markup, aside, join, tag
from umbel.evaluation.report_neighbors import divided

NEIGHBORS, PAIRS, PHOTOGRAPHS = 20, 4, 3
SIDE = 240


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two species and how often one was taken for the other."""

    labels: tuple[int, int]
    mistakes: int
    """Queries of either that were named as the other."""
    queries: int
    """Queries of both."""


def confused(truth: np.ndarray, named: np.ndarray) -> list[Pair]:
    """Pairs with a mistake between them: those with most mistakes first, among equals the larger share, then labels.

    Args:
        truth: (Q,) labels; named: (Q,) what they were taken for.
    """
    wrong = truth != named
    both = np.sort(np.stack([truth[wrong], named[wrong]], axis=1), axis=1)
    pairs, counts = np.unique(both, axis=0, return_counts=True)
    found = [
        Pair(labels=(int(a), int(b)), mistakes=int(count), queries=int(np.isin(truth, (a, b)).sum()))
        for (a, b), count in zip(pairs, counts, strict=True)
    ]
    return sorted(found, key=lambda pair: (-pair.mistakes, -pair.mistakes / pair.queries, pair.labels))


def confusions(embeddings: Embeddings, album: Album) -> Markup:
    """The most confused pairs by the weighted vote of the nearest neighbors."""
    parts = divided(embeddings)
    if parts is None:
        return aside("There are no confusions: the embedded photographs have no labels.")
    searched, asked = parts
    queries = None if searched is asked else embeddings.features[asked]
    named = vote(embeddings.features[searched], embeddings.label[searched], queries=queries, k=NEIGHBORS).weighted
    truth = embeddings.label[asked]
    pairs = confused(truth, named)
    if not pairs:
        return tag("p", f"None of the {len(asked):,} queries was taken for another species.")
    told = (
        f"By the vote of {NEIGHBORS} neighbors, {int((truth != named).sum()):,} of {len(asked):,} queries are taken "
        f"for another species. These pairs have most mistakes between them; mistaken photographs come first."
    )
    return join(tag("p", told), *(_pair(embeddings, album, pair, asked, named) for pair in pairs[:PAIRS]))


def _pair(embeddings: Embeddings, album: Album, pair: Pair, asked: np.ndarray, named: np.ndarray) -> Markup:
    names = [class_name(embeddings.classes, label) for label in pair.labels]
    sides = []
    for label, name, other, other_name in zip(pair.labels, names, pair.labels[::-1], names[::-1], strict=True):
        own = embeddings.label[asked] == label
        order = np.argsort(~(named[own] == other), kind="stable")[:PHOTOGRAPHS]
        cells = []
        for row, verdict in zip(asked[own][order].tolist(), named[own][order].tolist(), strict=True):
            kind = "right" if verdict == label else "wrong"
            said = "✓ right" if kind == "right" else f"✗ taken for {class_name(embeddings.classes, verdict)}"
            alt = f"{name}, {embeddings.keys[row]}: {said[2:]}."
            cells.append(album.cell(embeddings.keys[row], alt, tag("span", said, class_="mark"), side=SIDE, kind=kind))
        mistakes = int((named[own] == other).sum())
        heading = tag("h4", name, class_="species")
        count = tag("p", f"{mistakes} of {int(own.sum())} taken for {other_name}", class_="of-set")
        sides.append(tag("div", heading, count, tag("div", *cells, class_="three")))
    title = tag("h3", f"{names[0]} and {names[1]}: {pair.mistakes} of {pair.queries}")
    return tag("div", title, tag("div", *sides, class_="two"), class_="confused")
