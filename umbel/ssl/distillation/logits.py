"""Distillation of logits by the divergence of softened class probabilities.

Sources: Hinton et al. (arXiv 1503.02531); standardized logits: Logit Standardization (arXiv 2403.01427).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from umbel.coding_rate import at_least_float32

EPS = 1e-7


def standardize_logits(logits: Tensor) -> Tensor:  # (B, K)
    """Each photograph's logits with mean 0 and deviation 1 over the classes: only their pattern counts."""
    centered = logits - logits.mean(-1, keepdim=True)
    return centered / centered.square().mean(-1, keepdim=True).clamp(min=EPS**2).sqrt()


def logit_divergence(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over photographs.

    T^2 keeps the size of the gradient whatever the temperature.

    Args:
        student, teacher: (B, K) logits.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, seen = ((at_least_float32(x) / temperature).log_softmax(-1) for x in (student, teacher))
        return temperature**2 * F.kl_div(own, seen, reduction="batchmean", log_target=True)
