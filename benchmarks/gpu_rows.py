"""Rows of the GPU suite's checks: an error, its tolerance, and whether it is kept.

Errors are relative (the norm of the difference over the reference's) unless the check says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

Row = dict[str, Any]


def row(check: str, error: float, tolerance: float) -> Row:
    """A line of the table."""
    return {"check": check, "error": error, "tolerance": tolerance, "ok": error <= tolerance}


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected; NaN counts as infinite."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    error = float((found - expected).norm() / expected.norm().clamp(min=1e-300))
    return math.inf if math.isnan(error) else error


def flat_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """All gradients in one vector, in float64 on the CPU."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().double().cpu() for p in parameters])


def full_float32() -> None:
    """No TF32: a float32 reference with 10 bits would hide errors."""
    torch.backends.cudnn.allow_tf32 = False  # matrix products have none by default, convolutions do


def share(where: Tensor) -> float:
    """Of the elements that are true."""
    return float(where.double().mean())


def joined_error(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Relative error of all tensors as one vector."""
    one, other = (torch.cat([t.detach().flatten().double().cpu() for t in tensors]) for tensors in (found, expected))
    return relative(one, other)
