"""The relational loss: the student should find earlier photographs as like as the teacher does.

Source of the idea: SEED (arXiv 2101.04731), self-supervised distillation by similarities to a queue.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from umbel.coding_rate import at_least_float32

TEMPERATURE = 0.07
# Finite, unlike -inf: with an empty queue both distributions are uniform, and nothing becomes NaN.
NOWHERE = -1e4


def relational_loss(
    student: Tensor, teacher: Tensor, queue: Tensor, filled: Tensor, *, temperature: float = TEMPERATURE
) -> Tensor:
    """KL from the teacher's to the student's distribution over the queue, mean over photographs.

    Each distribution is the softmax of cosines to the queue over the temperature.

    Args:
        student: (B, D) in the teacher's space, with gradient.
        teacher: (B, D); queue: (Q, D), both of the teacher.
        filled: (Q,) bool, the places that count; without any the loss is 0.

    Returns:
        0-d, at least 0.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, seen, kept = (F.normalize(at_least_float32(x), dim=-1) for x in (student, teacher, queue))
        of_student, of_teacher = (
            torch.where(filled, x @ kept.T / temperature, NOWHERE).log_softmax(-1) for x in (own, seen)
        )
        return F.kl_div(of_student, of_teacher, reduction="batchmean", log_target=True)
