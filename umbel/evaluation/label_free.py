"""What features tell without labels: RankMe (arXiv 2210.02885), alignment and uniformity (arXiv 2005.10242).

The intervals are those of a jackknife over 20 groups of photographs: a bootstrap repeats rows, which lowers a rank.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from umbel.evaluation.estimates import Estimate, bootstrap, jackknife
from umbel.evaluation.feature_checks import Features, check_features

GROUPS, MOST = 20, 8192


def rank_me(features: Features, *, seed: int = 0) -> Estimate:
    """RankMe: the exponential of the entropy of the singular values' shares, between 1 and min(N, C).

    Args:
        features: (N, C) as the backbone gives them, N at least 40; neither centered nor normalized.

    Raises:
        ValueError: shapes that do not fit.
    """
    groups = _groups(check_features(features, "features"), seed)
    rows = torch.cat(groups)
    if len(rows) <= rows.shape[1]:
        # The photographs' inner products have the same singular values, and fewer of them.
        gram, number = rows @ rows.T, torch.arange(GROUPS, device=rows.device)
        of = number.repeat_interleave(torch.tensor([len(group) for group in groups], device=rows.device))
        without = [_effective_rank(gram[of != group][:, of != group]) for group in range(GROUPS)]
        return jackknife(_effective_rank(gram), without)
    total = rows.T @ rows
    return jackknife(_effective_rank(total), [_effective_rank(total - group.T @ group) for group in groups])


def _effective_rank(gram: Tensor) -> float:
    """Of (C, C) or (N, N), the features' inner products."""
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=1e-300)
    return float(torch.special.entr(shares).sum().exp())


def uniformity(features: Features, *, seed: int = 0) -> Estimate:
    """log of the mean over pairs of exp(-2 |x - y|^2) for normalized features: 0 where all are one, -4 at best.

    Of more than 8,192 photographs a random 8,192 are taken.

    Args:
        features: (N, C), N at least 40.

    Raises:
        ValueError: shapes that do not fit.
    """
    groups = _groups(normalize(check_features(features, "features").double(), dim=1), seed, most=MOST)
    sizes = np.array([len(group) for group in groups])
    sums = np.zeros((GROUPS, GROUPS))
    for i, first in enumerate(groups):
        for j, second in enumerate(groups[: i + 1]):
            sums[i, j] = sums[j, i] = float((4 * (first @ second.T - 1)).exp().sum())
    sums[np.diag_indices(GROUPS)] -= sizes  # a photograph is no pair with itself
    count = int(sizes.sum())

    def of(pairs: float, images: int) -> float:
        return float(np.log(pairs / (images * (images - 1))))

    total = sums.sum()
    without = [of(total - 2 * sums[g].sum() + sums[g, g], count - int(sizes[g])) for g in range(GROUPS)]
    return jackknife(of(total, count), without)


def alignment(features: Features, others: Features) -> Estimate:
    """Mean squared distance of the normalized features of two views of the same photographs; 0 at best.

    Args:
        features: (N, C); others: (N, C), row i of the same photograph.

    Raises:
        ValueError: shapes that do not fit.
    """
    first, second = check_features(features, "features"), check_features(others, "others")
    if first.shape != second.shape:
        raise ValueError(f"two views have one shape, not {tuple(first.shape)} and {tuple(second.shape)}")
    distance = (normalize(first.double(), dim=1) - normalize(second.double(), dim=1)).square().sum(1).cpu().numpy()
    return bootstrap(lambda rows: float(distance[rows].mean()), len(distance), seed=0, resamples=1000)


def _groups(features: Tensor, seed: int, *, most: int | None = None) -> list[Tensor]:
    """The rows in 20 random groups of equal size, one larger at most, in float64."""
    if len(features) < 2 * GROUPS:
        raise ValueError(f"an interval needs {2 * GROUPS} photographs, not {len(features)}")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(features))[:most]).to(features.device)
    return [features[rows].double() for rows in order.tensor_split(GROUPS)]
