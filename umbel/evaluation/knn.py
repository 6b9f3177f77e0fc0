"""k nearest neighbors on cosine similarity: a plain majority and DINO's weighted vote (arXiv 2104.14294)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from umbel.evaluation.feature_checks import Features, check_features, check_labels
from umbel.machine import choose_precision

# Numbers in one temporary tensor.
CHUNK = 1 << 23
# Embeddings that one block of queries meets at a time, and columns that are told apart only if one of them matters.
TILE, GROUP = 1 << 14, 32
# Candidates of half precision for each neighbor that is wanted.
SPARE = 2
# Products from which on bf16 is worth while.
LARGE = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Votes:
    """What the neighbors of Q queries say."""

    weighted: np.ndarray  # (Q,) int64, class by votes of weight exp(cosine / temperature)
    plain: np.ndarray  # (Q,) int64, class by majority; among equals that of the nearest neighbor

    def of(self, rows: np.ndarray) -> Votes:
        """The votes of some queries, (Q,) bool or row numbers."""
        return Votes(weighted=self.weighted[rows], plain=self.plain[rows])

    def accuracy(self, labels: Features | Sequence[int]) -> tuple[float, float]:
        """Share of queries whose class, (Q,), the weighted and the plain vote hit."""
        truth = check_labels(labels, len(self.plain), "labels")
        return float((self.weighted == truth).mean()), float((self.plain == truth).mean())


def vote(
    embeddings: Features,
    labels: Features | Sequence[int],
    *,
    queries: Features | None = None,
    k: int = 20,
    temperature: float = 0.07,
) -> Votes:
    """Classify queries by their k nearest neighbors.

    Args:
        embeddings: (N, C) features that vote.
        labels: (N,) their classes, integers from 0 up.
        queries: (Q, C) features to classify; None: the embeddings themselves, each by its neighbors among the others.
        k: neighbors; all of them where there are fewer.

    Raises:
        ValueError: shapes that do not fit, k below 1, a temperature that is not positive, nobody to vote.
    """
    label = check_labels(labels, len(embeddings), "labels")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    similarity, rows = neighbors(embeddings, queries=queries, k=k)
    weights = np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature)
    weighted, plain = [], []
    block = max(1, CHUNK // rows.shape[1] ** 2)
    for first in range(0, len(rows), block):
        near = label[rows[first : first + block]]  # (b, k), nearest first
        same = near[:, :, None] == near[:, None, :]  # (b, k, k): a neighbor's class has the votes of its row
        counts = same.sum(axis=2)
        sums = (same * weights[first : first + block, None, :]).sum(axis=2)
        # numpy's argmax takes the first of equals, which is the nearest.
        weighted.append(np.take_along_axis(near, sums.argmax(1)[:, None], axis=1)[:, 0])
        plain.append(np.take_along_axis(near, counts.argmax(1)[:, None], axis=1)[:, 0])
    return Votes(weighted=np.concatenate(weighted), plain=np.concatenate(plain))


def neighbors(
    embeddings: Features, *, queries: Features | None = None, k: int, half: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of the embeddings by cosine similarity in single precision, on their device.

    Args:
        embeddings: (N, C); queries: (Q, C), or None: the embeddings, none of which is its own neighbor.
        half: begin in bf16; None: where there is much to do and the device computes in it, in a third of the time.

    Returns:
        (Q, k) similarities, falling; (Q, k) rows.

    Raises:
        ValueError: shapes that do not fit, k below 1, or no neighbors.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    base = normalize(check_features(embeddings, "embeddings").float(), dim=1)
    asked = base if queries is None else normalize(check_features(queries, "queries").float().to(base.device), dim=1)
    if asked.shape[1] != base.shape[1]:
        raise ValueError(f"queries have width {asked.shape[1]}, embeddings {base.shape[1]}")
    k = min(k, len(base) - (queries is None))
    if k < 1:
        raise ValueError("a single embedding has no neighbors")
    rows = torch.arange(len(asked), device=base.device)
    own = rows if queries is None else None
    if half is None:
        half = len(asked) * len(base) >= LARGE and choose_precision("auto", base.device.type).value == "bf16"
    if half and len(base) > SPARE * k + 1:
        similarity, found, open_ = _by_half(asked, base, own, k)
        rows = rows[open_]
    else:
        similarity = torch.empty((len(asked), k), device=base.device)
        found = torch.empty((len(asked), k), dtype=torch.int64, device=base.device)
    if len(rows):
        similarity[rows], found[rows] = _search(asked[rows], base, None if own is None else own[rows], k)
    return similarity.cpu().numpy(), found.cpu().numpy()


def _by_half(asked: Tensor, base: Tensor, own: Tensor | None, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbors among the candidates that bf16 finds: (Q, k) similarities and rows, and (Q,) bool, where it may err."""
    approximate, candidates = _search(asked.bfloat16(), base.bfloat16(), own, SPARE * k)
    # Both factors of a term are off by up to 2^-8, evenly: a deviation of 2^-8 / sqrt(3) each. Eight deviations of the
    # sum are beyond chance; what is not among the candidates has no greater similarity than this.
    spread = (asked.square() @ base.square().amax(0)).mul_(2 / 3).sqrt_() * 2.0**-8
    beyond = approximate[:, -1] + 8 * spread + 2.0**-8 * approximate[:, -1].abs()
    block = max(1, CHUNK // (candidates.shape[1] * base.shape[1]))
    exact = torch.cat(
        [
            (base[near] @ part[:, :, None])[..., 0]
            for near, part in zip(torch.split(candidates, block), torch.split(asked, block), strict=True)
        ]
    )
    best = exact.topk(k, dim=1)
    return best.values, candidates.gather(1, best.indices), best.values[:, -1] <= beyond


def _search(asked: Tensor, base: Tensor, own: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """(Q, C), (N, C) and (Q,) rows that a query is itself -> (Q, k) float32 products, falling, and their rows."""
    similarities, rows = [], []
    tile = max(k, GROUP, min(len(base), TILE))
    block = max(1, CHUNK // tile)
    for first in range(0, len(asked), block):
        part = asked[first : first + block]
        best = torch.full((len(part), k), -torch.inf, device=base.device)
        where = torch.zeros((len(part), k), dtype=torch.int64, device=base.device)
        for start in range(0, len(base), tile):
            cosine = (part @ base[start : start + tile].T).float()  # (b, tile)
            if own is not None:
                column = own[first : first + block] - start
                there = (column >= 0) & (column < cosine.shape[1])
                cosine[there.nonzero()[:, 0], column[there]] = -torch.inf
            values, columns = _greatest(cosine, k)
            both = torch.cat([best, values], dim=1).topk(k, dim=1)
            best, where = both.values, torch.cat([where, columns + start], dim=1).gather(1, both.indices)
        similarities.append(best)
        rows.append(where)
    return torch.cat(similarities), torch.cat(rows)


def _greatest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest scores of every row, in any order, and their columns: (b, k) each, or fewer where a row is short.

    The k greatest lie in the k groups of columns with the greatest maxima: finding maxima is one fast pass, and what is
    left to sort is small.

    Args:
        scores: (b, n).
    """
    count, width = scores.shape
    groups = width // GROUP
    if groups <= 2 * k:
        found = scores.topk(min(k, width), dim=1, sorted=False)
        return found.values, found.indices
    whole = scores[:, : groups * GROUP].view(count, groups, GROUP)
    chosen = whole.amax(2).topk(k, dim=1, sorted=False).indices  # (b, k)
    inside = whole.gather(1, chosen[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    rest = scores[:, groups * GROUP :]
    found = torch.cat([inside, rest], dim=1).topk(k, dim=1, sorted=False)
    at = found.indices.clamp(max=k * GROUP - 1)
    columns = chosen.gather(1, at // GROUP) * GROUP + at % GROUP
    late = found.indices - k * GROUP
    return found.values, torch.where(late < 0, columns, groups * GROUP + late)
