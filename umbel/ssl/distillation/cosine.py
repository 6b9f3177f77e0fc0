"""Cosine distance between what the student says of a photograph and what the teacher says."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from umbel.coding_rate import at_least_float32


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cos over all vectors, in float32 or higher.

    Args:
        student, teacher: (..., D) of one shape; (B, D) pooled features, (B, P, D) patches.

    Returns:
        0-d, between 0 and 2.
    """
    with torch.autocast(student.device.type, enabled=False):
        cosine = F.cosine_similarity(at_least_float32(student), at_least_float32(teacher), dim=-1)
        return 1 - cosine.mean()
