"""The CroVCA loss: every view predicts the bits of the others, and a coding rate keeps the codes apart.

Source: Image Hashing via Cross-View Code Alignment in the Age of Foundation Models (arXiv 2510.27584). There is no
temperature, margin, quantization term or negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from umbel.coding_rate import at_least_float32, coding_rate, coding_rate_weight


def crovca_loss(
    logits_by_view: Sequence[Tensor], *, eps: float = 0.05, weight: float = 0.1, targets: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Alignment of views and spread of codes: total = alignment + weight * regularizer.

    Args:
        logits_by_view: V >= 2 tensors (B, K), one for each view or modality of the same B items.
        eps: precision of the coding rate.
        weight: of the regularizer.
        targets: (B, K), the bits that every view is to predict, of items whose class is known; NaN in the rows of
            others, whose views predict each other's bits as without targets.

    Returns:
        (total, alignment, regularizer), scalars in float32 or float64. The regularizer is at its least (-1.617403 for
        B = 256, K = 16) where the codes spread evenly; NaN where the coding rate's factorization fails.

    Raises:
        ValueError: fewer than two views, or shapes that differ.
    """
    shapes = {tuple(logits.shape) for logits in logits_by_view}
    if len(logits_by_view) < 2 or len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"at least 2 views of one shape (B, K) needed, not {[tuple(x.shape) for x in logits_by_view]}")
    with torch.autocast(device_type=logits_by_view[0].device.type, enabled=False):
        logits = torch.stack([at_least_float32(view) for view in logits_by_view])  # (V, B, K)
        alignment = cross_view_alignment(logits, targets)
        regularizer = spread_regularizer(logits, eps=eps)
        return alignment + weight * regularizer, alignment, regularizer


def cross_view_alignment(logits: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean over the ordered pairs of views i != j of BCE(z_i, 1[z_j > 0]): (V, B, K) -> scalar.

    Where `known`, (B, K), is a number, it is the target of all views.
    """
    bits = (logits.detach() > 0).to(logits.dtype)
    # BCE is linear in its target: the mean over the other views' bits is one target, V terms instead of V (V - 1).
    targets = (bits.sum(0) - bits) / (len(bits) - 1)
    if known is not None:
        targets = torch.where(known.isnan(), targets, known.to(logits.dtype))
    return F.binary_cross_entropy_with_logits(logits, targets)


def spread_regularizer(logits: Tensor, *, eps: float) -> Tensor:
    """Minus the coding rate of the L2-normalized rows times (K + B) / (K B), averaged over views: (V, B, K) -> scalar.

    The batch is this process's own, whatever the number of ranks.
    """
    rows, width = logits.shape[-2:]
    rate = coding_rate(F.normalize(logits, dim=-1), eps=eps, covariance="local").mean()
    return -coding_rate_weight(rows, width) * rate
