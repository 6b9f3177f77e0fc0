"""Nearest class mean for all queries of one draw: half precision decides, and a higher one where it cannot.

A matrix product in bf16 takes a quarter of the time where the processor computes in it. Queries whose answer its
rounding errors could change are done again in single precision, and what that leaves in double precision: the answers
are those of double precision throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from umbel.machine import choose_precision

# Numbers in one temporary tensor.
CHUNK = 1 << 24
TOP = 5
# Rounding errors of a dot product add up like a random walk (Higham and Mary, SIAM Journal on Scientific Computing
# 41(5), 2019): so many deviations are beyond chance.
DEVIATIONS = 8


@dataclass(frozen=True, kw_only=True)
class DrawOutcome:
    """What nearest centroids answer to Q queries in one draw."""

    predicted: Tensor  # (Q,) int64
    among_top: Tensor  # (Q,) bool: the query's class is among the nearest five


@dataclass(frozen=True, kw_only=True)
class Product:
    """Scores of all queries as a matrix product: a query's nearest centroid has its highest score."""

    queries: Tensor  # (Q, D)
    columns: Tensor  # (D, K)
    doubt: Tensor  # (Q,): two scores that differ by more are not turned round by the rounding of what is multiplied
    unit: float
    """Relative rounding of the scores themselves."""

    def blocks(self, rows: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some queries, all without `rows`, piece by piece: (b,) rows, (b, K) scores, (b,) doubt."""
        size = max(1, CHUNK // self.columns.shape[1])
        count = len(self.queries) if rows is None else len(rows)
        for first in range(0, count, size):
            part = slice(first, min(first + size, count))
            # All of them need no copy.
            asked = self.queries[part] if rows is None else self.queries[rows[part]]
            where = torch.arange(part.start, part.stop, device=asked.device) if rows is None else rows[part]
            yield where, asked @ self.columns, self.doubt[where]


class Queries:
    """Q queries, prepared once for all draws."""

    def __init__(self, features: Tensor, truth: Tensor, *, half: bool | None = None) -> None:
        """
        Args:
            features: (Q, C); truth: (Q,) class numbers.
            half: begin in bf16; None: where the device computes in it.
        """
        self.features, self.truth = features, truth
        self.half = choose_precision("auto", features.device.type).value == "bf16" if half is None else half
        total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
        block = max(1, CHUNK // (8 * features.shape[1]))
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
        hit = torch.empty(len(self.truth), dtype=torch.bool, device=self.truth.device)
        unsure: Tensor | None = None
        for product in self._products(mean, centroids):
            if unsure is not None and not len(unsure):
                break
            left = []
            for rows, scores, doubt in product.blocks(unsure):
                truth = self.truth[rows, None]
                own = scores.gather(1, truth)[:, 0].float()
                rival = scores.scatter_(1, truth, -torch.inf).amax(1).float()
                hit[rows] = own > rival
                doubt = doubt + 2 * product.unit * torch.maximum(own.abs(), rival.abs())
                left.append(rows[(own - rival).abs() <= doubt])
            unsure = torch.cat(left)
        for rows, distances in self._by_double(unsure, mean, centroids):
            hit[rows] = distances.argmin(1) == self.truth[rows]
        return hit

    def answers(self, mean: Tensor, centroids: Tensor) -> DrawOutcome:
        """The nearest centroid of every query, and whether that of its class is among the nearest five; see `hits`."""
        predicted = torch.empty_like(self.truth)
        among = torch.empty(len(self.truth), dtype=torch.bool, device=self.truth.device)
        unsure: Tensor | None = None
        for product in self._products(mean, centroids):
            if unsure is not None and not len(unsure):
                break
            left = []
            for rows, scores, doubt in product.blocks(unsure):
                own = scores.gather(1, self.truth[rows, None])[:, 0].float()
                found = scores.topk(min(TOP + 1, scores.shape[1]), dim=1)
                values = found.values.float()
                predicted[rows] = found.indices[:, 0]
                doubt = doubt + 2 * product.unit * torch.maximum(own.abs(), values[:, 0].abs())
                open_ = values[:, 0] - values[:, 1] <= doubt
                among[rows] = True
                if values.shape[1] > TOP:
                    last, next_ = values[:, TOP - 1], values[:, TOP]
                    among[rows] = own >= last
                    open_ |= torch.where(own >= last, own - next_, last - own) <= doubt
                left.append(rows[open_])
            unsure = torch.cat(left)
        for rows, distances in self._by_double(unsure, mean, centroids):
            predicted[rows] = distances.argmin(1)
            among[rows] = (distances < distances.gather(1, self.truth[rows, None])).sum(1) < TOP
        return DrawOutcome(predicted=predicted, among_top=among)

    def _products(self, mean: Tensor, centroids: Tensor) -> Iterator[Product]:
        """The scores in rising precision.

        For a query q, the mean m and a centroid c, |(q - m) / |q - m| - c|^2 is least where
        (q - m) c / |q - m| - |c|^2 / 2 is greatest.
        """
        moved_mean = (mean - self.offset).float()
        lengths = (self.length2 - 2 * (self.moved @ moved_mean) + moved_mean.square().sum()).clamp(min=0).sqrt()
        if self.half:
            yield self._half(moved_mean, lengths, centroids)
        # One product of rows (q, 1, |q - m|) and (c, -m c, -|c|^2 / 2), times |q - m|.
        extra = torch.stack([-(centroids @ moved_mean.double()), -centroids.square().sum(1) / 2], dim=1)
        columns = torch.cat([centroids, extra], dim=1).float().T.contiguous()
        ones = torch.ones_like(lengths)
        unit = 2 * DEVIATIONS * len(columns) ** 0.5 * 2.0**-24
        yield Product(
            queries=torch.cat([self.moved, ones[:, None], lengths[:, None]], dim=1),
            columns=columns,
            doubt=unit * (self.length2.sqrt() + lengths + moved_mean.norm()),
            unit=2.0**-24,
        )

    def _half(self, moved_mean: Tensor, lengths: Tensor, centroids: Tensor) -> Product:
        """In bf16, whose significands have 8 bits; |c|^2 / 2 is split into three, which have 24."""
        queries = (self.moved - moved_mean).div_(lengths.clamp(min=1e-12)[:, None])
        rest, split = -centroids.square().sum(1, keepdim=True) / 2, []
        for _ in range(3):
            split.append(rest.bfloat16())
            rest = rest - split[-1].double()
        columns = torch.cat([centroids.bfloat16(), *split], dim=1).T.contiguous()
        # Both factors of a term are off by up to 2^-8, evenly: a deviation of 2^-8 / sqrt(3) each.
        widest = centroids.square().amax(0).float()
        spread = (queries.square() @ widest).mul_(2 / 3).sqrt_() * 2.0**-8
        ones = torch.ones((len(queries), 3), dtype=torch.bfloat16, device=queries.device)
        return Product(
            queries=torch.cat([queries.bfloat16(), ones], dim=1),
            columns=columns,
            # Of two scores, whose errors add up to the root of two of one: seven deviations of their difference, and
            # of the widest centroid that there could be.
            doubt=2 * 5 * spread,
            unit=2.0**-8,
        )

    def _by_double(self, rows: Tensor | None, mean: Tensor, centroids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(b,) of the rows and (b, K) squared distances in double precision, without |q|^2, which all share."""
        assert rows is not None
        block = max(1, CHUNK // (8 * max(centroids.shape)))
        for part in torch.split(rows, block) if len(rows) else ():
            asked = normalize(normalize(self.features[part].double(), dim=1) - mean, dim=1)
            yield part, centroids.square().sum(1) - 2 * asked @ centroids.T
