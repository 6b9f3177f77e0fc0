"""The SimDINOv2 losses: image level (compression and expansion of class tokens) and patch level (masked patches).

Source: Simplifying DINO via Coding Rate Regularization (arXiv 2502.10385). No prototypes, centering or temperatures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from umbel.coding_rate import Covariance, at_least_float32, coding_rate, coding_rate_weight


def image_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    eps: float = 0.05,
    coeff: float = 1.0,
    center_with_teacher: bool = True,
    covariance: Covariance = "summed",
) -> tuple[Tensor, Tensor, Tensor]:
    """Image-level loss: total = -coeff * C - R.

    C is the mean cosine over the pairs (teacher view i, student view j), i global, j any view, i != j, and over the
    batch. R is gamma times the mean coding rate of the global views' features, F = (student + teacher) / 2 (not
    renormalized), or the student's alone.

    Args:
        student: (2 + L, B, D), L2-normalized; views 0 and 1 are the global ones.
        teacher: (2, B, D), L2-normalized; gets no gradient.
        eps: precision of the coding rate.
        coeff: weight of the compression.
        center_with_teacher: whether F takes the mean with the teacher.
        covariance: over ranks, see `umbel.coding_rate.coding_rate`.

    Returns:
        (total, compression, expansion), float32 or float64 scalars; over ranks, `total` and `compression` are this
        rank's and their mean is the global value.

    Raises:
        ValueError: shapes that do not fit.
    """
    if student.dim() != 3 or teacher.dim() != 3 or len(teacher) != 2 or len(student) < 2:
        raise ValueError(f"student (2+L, B, D) and teacher (2, B, D) needed, not {student.shape} and {teacher.shape}")
    if student.shape[1:] != teacher.shape[1:]:
        raise ValueError(f"student and teacher differ in batch or width: {student.shape} and {teacher.shape}")
    student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
    views, batch, width = student.shape
    # The sum over all pairs less the pairs of a view with itself; one elementwise product instead of 2 (2 + L).
    all_pairs = (teacher.sum(0) * student.sum(0)).sum()
    same_view = (teacher * student[:2]).sum()
    compression = (all_pairs - same_view) / ((2 * views - 2) * batch)
    features = (student[:2] + teacher) / 2 if center_with_teacher else student[:2]
    rate = coding_rate(features, eps=eps, covariance=covariance).mean()
    expansion = coding_rate_weight(batch, width) * rate
    return -coeff * compression - expansion, compression, expansion


def patch_loss(student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
    """Patch-level loss: minus the cosine of masked patches, averaged within each view, then over all 2B views.

    A view without masked patches contributes 0 and still counts.

    Args:
        student, teacher: (M, D) outputs for the masked patches in row-major order of `masks`, normalized or not;
            the teacher gets no gradient.
        masks: (2B, P) bool, True where masked.

    Returns:
        float32 or float64 scalar.

    Raises:
        ValueError: shapes that do not fit.
    """
    if student.shape != teacher.shape or student.dim() != 2 or masks.dim() != 2:
        raise ValueError(f"(M, D), (M, D), (2B, P) needed, not {student.shape}, {teacher.shape}, {masks.shape}")
    return weighted_patch_loss(student, teacher, patch_weights(masks))


def patch_weights(masks: Tensor) -> Tensor:
    """1 / (masked patches of the view * number of views) for each masked patch, row-major: (2B, P) -> (M,)."""
    count = masks.sum(1).clamp(min=1)
    weights = (1.0 / (count * len(masks)))[:, None].expand(masks.shape)
    return weights[masks]


def weighted_patch_loss(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """`patch_loss` with the weights (M,) of `patch_weights` at hand (made in the data workers)."""
    if len(weights) != len(student):
        raise ValueError(f"{len(student)} patch outputs for {len(weights)} masked patches")
    with torch.autocast(device_type=student.device.type, enabled=False):
        student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
        cosine = (F.normalize(student, dim=-1) * F.normalize(teacher, dim=-1)).sum(-1)
        return -(weights.to(cosine.dtype) * cosine).sum()
