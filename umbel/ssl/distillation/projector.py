"""The way from the student's width to the teacher's; it serves training alone and is left out of what is exported."""

from __future__ import annotations

from typing import Literal

from torch import nn

ProjectorKind = Literal["linear", "mlp"]
HIDDEN = 2048


def projector(kind: ProjectorKind, width: int, teacher_width: int) -> nn.Module:
    """(..., width) -> (..., teacher_width): a linear map, or one hidden layer of 2048."""
    if kind == "linear":
        return nn.Linear(width, teacher_width)
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, teacher_width))
