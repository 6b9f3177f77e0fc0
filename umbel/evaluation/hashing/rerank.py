"""A shortlist by Hamming distance, ordered again by a finer one: asymmetric, or the cosine of the float features."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from umbel.evaluation.hashing.finder import Finder
from umbel.evaluation.hashing.queries import Queries, logits_of
from umbel.evaluation.hashing.search import asymmetric_distances, nearest_rows
from umbel.evaluation.hashing.stored import Hasher
from umbel.evaluation.stored_embeddings import StoredEmbeddings

Rerank = Literal["none", "asymmetric", "float"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The photographs nearest to one query, nearest first."""

    rows: np.ndarray  # (n,) int64
    hamming: np.ndarray  # (n,) int32: bits that differ
    distance: np.ndarray  # (n,) what they are ordered by


class Ranking:
    """How answers are ordered, with what that takes."""

    def __init__(
        self,
        finder: Finder,
        *,
        rerank: Rerank = "none",
        shortlist: int = 1000,
        hasher: Hasher | None = None,
        embeddings: StoredEmbeddings | None = None,
    ) -> None:
        """Args:
        shortlist: photographs by Hamming distance that are ordered again.
        hasher: for asymmetric distances to photographs of the set.
        embeddings: the set's, for both kinds.
        """
        self.finder, self.codes = finder, finder.codes
        self.rerank, self.shortlist, self.hasher, self.embeddings = rerank, shortlist, hasher, embeddings

    def answers(self, queries: Queries, top: int) -> list[Answer]:
        """The `top` nearest to each query, itself left out; ties go to the lowest row."""
        queries = self._completed(queries)
        wanted = top if self.rerank == "none" else max(top, self.shortlist)
        distances, rows = self.finder.nearest(queries.packed, wanted + bool((queries.own >= 0).any()))
        answers = []
        for number, own in enumerate(queries.own.tolist()):
            others = rows[number] != own
            hamming, found = distances[number][others][:wanted], rows[number][others][:wanted]
            if self.rerank != "none":
                # By row: where the finer distance ties, the lowest row comes first again.
                by_row = np.argsort(found)
                hamming, found = hamming[by_row], found[by_row]
                finer, order = nearest_rows(self._finer(queries, number, found), top)
                answers.append(Answer(rows=found[order], hamming=hamming[order], distance=finer))
            else:
                answers.append(Answer(rows=found, hamming=hamming, distance=hamming))
        return answers

    def _completed(self, queries: Queries) -> Queries:
        """Queries by key have no features of their own: they are read from the embeddings."""
        if self.rerank == "none" or (queries.logits is not None and self.rerank == "asymmetric"):
            return queries
        if queries.features is None:
            if self.embeddings is None or (queries.own < 0).any():
                raise ValueError("these queries have no features to be ordered by")
            queries = dataclasses.replace(queries, features=self.embeddings.features[queries.own])
        if self.rerank == "asymmetric":
            assert self.hasher is not None
            assert queries.features is not None
            queries = dataclasses.replace(queries, logits=logits_of(self.hasher, queries.features))
        return queries

    def _finer(self, queries: Queries, number: int, rows: np.ndarray) -> np.ndarray:
        """The finer distance of a query to some rows, (n,) float64."""
        if self.rerank == "asymmetric":
            assert queries.logits is not None
            return asymmetric_distances(queries.logits[number], self.codes.packed[rows])
        assert queries.features is not None
        assert self.embeddings is not None
        return cosine_distances(queries.features[number], self.embeddings.features[rows])


def cosine_distances(query: np.ndarray, features: np.ndarray) -> np.ndarray:
    """1 - cosine: (C,) and (n, C) -> (n,) float64.

    Each row is summed by itself: a matrix product may round equal rows differently, and ties would not stay ties.
    """
    wide, one = features.astype(np.float64), query.astype(np.float64)
    lengths = np.sqrt(np.square(wide).sum(1) * np.square(one).sum())
    products: np.ndarray = (wide * one).sum(1)
    distances: np.ndarray = 1.0 - np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return distances
