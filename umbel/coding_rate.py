"""The coding rate of a set of features and its place in a loss, for pretraining and hashing alike.

Sources: Simplifying DINO via Coding Rate Regularization (arXiv 2502.10385); CroVCA (arXiv 2510.27584).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed
import torch.distributed.nn.functional
from torch import Tensor

Covariance = Literal["summed", "local"]


def world_size() -> int:
    """Ranks of the process group; 1 without one."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def at_least_float32(x: Tensor) -> Tensor:
    """Losses run in float32 whatever the precision of the model; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def coding_rate(features: Tensor, *, eps: float, covariance: Covariance = "summed") -> Tensor:
    """R = 1/2 logdet(I + D / (m eps) F^T F), by Cholesky, differentiable over ranks.

    Args:
        features: F, (..., n, D), this rank's n rows.
        eps: precision of the code, in units of the features' squared length.
        covariance: "summed": F^T F summed over ranks, so m = W n rows stand in it and W ranks equal one rank with all
            rows; "local": this rank's rows alone, but m = W n all the same (what the authors' public code does).

    Returns:
        (...,) rates; NaN where the Cholesky factorization fails, so that the step is seen as bad.
    """
    with torch.autocast(device_type=features.device.type, enabled=False):
        features = at_least_float32(features)
        rows, width = features.shape[-2:]
        ranks = world_size()
        gram = features.mT @ features  # (..., D, D)
        if ranks > 1 and covariance == "summed":
            # The backward of this sum sums the gradients over ranks too.
            gram = torch.distributed.nn.functional.all_reduce(gram)  # type: ignore[no-untyped-call]
        identity = torch.eye(width, dtype=features.dtype, device=features.device)
        factor, failed = torch.linalg.cholesky_ex(identity + gram * (width / (rows * ranks * eps)))
        # logdet = 2 sum log diag, and R is half of it.
        rate = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.where(failed == 0, rate, torch.nan)


def coding_rate_weight(rows: int, width: int) -> float:
    """gamma = (D + m) / (D m), with m = `rows` on this rank times the number of ranks."""
    m = rows * world_size()
    return (width + m) / (width * m)
