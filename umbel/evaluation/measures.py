"""Measures of retrieval: average precision at K in its three conventions.

The same ranking scores differently under each, so a reported number carries its convention (CroVCA, arXiv 2510.27584,
divides by the relevant items found).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Denominator = Literal["found", "min", "all"]
# Numbers in one temporary array: 32 MiB in float64.
CHUNK = 1 << 22


def average_precision_at_k(
    relevance: np.ndarray | Tensor, k: int, *, denominator: Denominator = "found"
) -> NDArray[np.float64]:
    """Average precision of the first `k` ranks, one value for each query.

    The sum over ranks 1 .. k of precision times relevance, divided by
    - "found": the relevant items among the first k (the convention of the hashing papers);
    - "min": min(k, R), R being all relevant items of the row;
    - "all": R.

    Args:
        relevance: (Q, N) bool, the whole database in rank order (nearest first).
        k: ranks that count; all of them where it exceeds N.

    Returns:
        (Q,) values between 0 and 1; 0 where nothing relevant is found.

    Raises:
        ValueError: another shape, k below 1, an unknown denominator.
    """
    array = relevance.detach().cpu().numpy() if isinstance(relevance, Tensor) else np.asarray(relevance)
    if array.ndim != 2:
        raise ValueError(f"relevance must be of shape (Q, N), not {array.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if denominator not in get_args(Denominator):
        raise ValueError(f"denominator must be one of {', '.join(get_args(Denominator))}, not {denominator!r}")
    relevant = array.astype(bool)
    top = relevant[:, :k]
    ranks = np.arange(1, top.shape[1] + 1)
    summed = np.zeros(len(top))
    block = max(1, CHUNK // max(1, top.shape[1]))
    for first in range(0, len(top), block):
        part = top[first : first + block]
        summed[first : first + block] = (np.cumsum(part, axis=1) / ranks).sum(axis=1, where=part)
    found, total = top.sum(axis=1), relevant.sum(axis=1)
    divisor = {"found": found, "min": np.minimum(total, k), "all": total}[denominator]
    # Where the divisor is 0 nothing was found, and the sum is 0.
    value: NDArray[np.float64] = summed / np.maximum(divisor, 1)
    return value
