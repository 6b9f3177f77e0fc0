"""Stochastic depth by batch subset: a residual branch is computed for some of the rows and scaled up.

Source: DINOv2 (arXiv 2304.07193).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Subset(NamedTuple):
    """The rows of a batch that take a branch, and the factor that keeps the mean over draws."""

    rows: Tensor  # (kept,) int64
    scale: float


def draw_subset(n: int, rate: float, device: torch.device) -> Subset:
    """int(n (1 - rate)) of n rows, at least one, from torch's global generator of the device."""
    kept = max(int(n * (1 - rate)), 1)
    return Subset(torch.randperm(n, device=device)[:kept], n / kept)


def add_branch(x: Tensor, branch: Callable[[Tensor], Tensor], subset: Subset | None) -> Tensor:
    """x + branch(x); with a subset, x + scale * branch(x) on its rows alone.

    Args:
        x: (n, ...).
        branch: (kept, ...) -> (kept, ...).
    """
    if subset is None:
        return x + branch(x)
    residual = branch(x.index_select(0, subset.rows))
    return x.index_add(0, subset.rows, residual.to(x.dtype), alpha=subset.scale)
