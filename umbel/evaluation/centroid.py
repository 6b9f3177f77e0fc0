"""Nearest class mean for all queries of one draw: single precision decides, double precision where it cannot.

A matrix product in single precision takes half the time. Where its rounding error could change the answer (few queries
in a thousand), the query is done again in double precision, so that the answer is that of double precision throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Numbers in one temporary tensor: 8 MiB in float32, which stays in a processor's cache.
CHUNK = 1 << 21
TOP = 5


@dataclass(frozen=True, kw_only=True)
class DrawOutcome:
    """What nearest centroids answer to Q queries in one draw."""

    predicted: Tensor  # (Q,) int64
    among_top: Tensor  # (Q,) bool: the query's class is among the nearest five


class Queries:
    """Q queries, prepared once for all draws."""

    def __init__(self, features: Tensor, truth: Tensor) -> None:
        """
        Args:
            features: (Q, C); truth: (Q,) class numbers.
        """
        self.features, self.truth = features, truth
        total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
        block = max(1, CHUNK // features.shape[1])
        for part in torch.split(features, block):
            total += normalize(part.double(), dim=1).sum(0)
        # Distances from the support's mean are small beside the features where these share a large offset: without
        # the offset they keep their digits.
        self.offset = total / len(features)
        self.moved = torch.cat(
            [(normalize(part.double(), dim=1) - self.offset).float() for part in torch.split(features, block)]
        )
        self.length2 = self.moved.square().sum(1)

    def hits(self, mean: Tensor, centroids: Tensor) -> Tensor:
        """(Q,) bool: is the nearest centroid that of the query's class?

        Args:
            mean: (C,) float64, the support's; centroids: (K, C) float64, in the centered and normalized space.
        """
        found = []
        for first, scores, doubt in self._scores(mean, centroids):
            truth = self.truth[first : first + len(scores), None]
            own = scores.gather(1, truth)[:, 0]
            rival = scores.scatter_(1, truth, -torch.inf).amax(1)
            hit = own > rival
            self._again(first, (own - rival).abs() <= doubt, hit, mean, centroids, against_truth=True)
            found.append(hit)
        return torch.cat(found)

    def answers(self, mean: Tensor, centroids: Tensor) -> DrawOutcome:
        """The nearest centroid of every query; see `hits`."""
        predicted, among = [], []
        for first, scores, doubt in self._scores(mean, centroids):
            truth = self.truth[first : first + len(scores), None]
            own = scores.gather(1, truth)
            top = (scores > own).sum(1) < TOP
            best, nearest = scores.max(1)
            rival = scores.scatter_(1, nearest[:, None], -torch.inf).amax(1)
            self._again(first, best - rival <= doubt, nearest, mean, centroids, against_truth=False)
            predicted.append(nearest)
            among.append(top | (nearest == truth[:, 0]))
        return DrawOutcome(predicted=torch.cat(predicted), among_top=torch.cat(among))

    def _scores(self, mean: Tensor, centroids: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Blocks of (first query, scores (b, K), doubt (b,)): a query's nearest centroid has its highest score.

        For a query q, the mean m and a centroid c, |(q - m) / |q - m| - c|^2 is least where
        (q - m) c - |q - m| |c|^2 / 2 is greatest: one matrix product of rows (q, 1, |q - m|) and
        (c, -m c, -|c|^2 / 2), for q and m without offset.
        """
        moved_mean = (mean - self.offset).float()
        center = moved_mean.double()
        lengths = (self.length2 - 2 * (self.moved @ moved_mean) + moved_mean.square().sum()).clamp(min=0).sqrt()
        extra = torch.stack([-(centroids @ center), -centroids.square().sum(1) / 2], dim=1)
        columns = torch.cat([centroids, extra], dim=1).float().T.contiguous()  # (C + 2, K)
        # Two dot products of C + 2 terms, |c| <= 1: rounding errors add up like a random walk (Higham and Mary, SIAM
        # Journal on Scientific Computing 41(5), 2019), so that eight deviations are beyond chance.
        unit = 2 * 8 * len(columns) ** 0.5 * 2.0**-24
        doubt = unit * (self.length2.sqrt() + lengths + moved_mean.norm())
        block = max(1, CHUNK // columns.shape[1])
        for first in range(0, len(self.moved), block):
            part = slice(first, first + block)
            scores = torch.addmm(columns[-2] + lengths[part, None] * columns[-1], self.moved[part], columns[:-2])
            yield first, scores, doubt[part]

    def _again(
        self, first: int, unsure: Tensor, found: Tensor, mean: Tensor, centroids: Tensor, *, against_truth: bool
    ) -> None:
        """Replace what was found for the unsure queries of a block by the answer in double precision."""
        rows = unsure.nonzero()[:, 0]
        block = max(1, CHUNK // (2 * max(centroids.shape)))
        for part in torch.split(rows, block) if len(rows) else ():
            asked = normalize(self.features[first + part].double(), dim=1)
            asked = normalize(asked - mean, dim=1)
            # The squared distance without |q|^2, which is the same for all classes.
            nearest = (centroids.square().sum(1) - 2 * asked @ centroids.T).argmin(1)
            found[part] = nearest == self.truth[first + part] if against_truth else nearest
