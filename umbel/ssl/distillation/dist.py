"""DIST: the student should rank classes within a photograph, and photographs within a class, as the teacher does.

Source: Knowledge Distillation from A Stronger Teacher (arXiv 2205.10536).
"""

from __future__ import annotations

import torch
import torch.distributed.nn.functional
from torch import Tensor

from umbel.coding_rate import at_least_float32, world_size

EPS = 1e-8


def dist_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """T^2 times the sum of two means of 1 - Pearson: over photographs (between classes), and over classes.

    The correlation of a class is over the photographs of all ranks, so that several ranks equal one with all rows.

    Args:
        student, teacher: (B, K) logits; as many on every rank.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, seen = ((at_least_float32(x) / temperature).softmax(-1) for x in (student, teacher))
        own_rows, seen_rows = (x - x.mean(-1, keepdim=True) for x in (own, seen))
        within = 1 - _cosine((own_rows * seen_rows).sum(1), own_rows.square().sum(1), seen_rows.square().sum(1))
        count = len(own) * world_size()
        own_class, seen_class = (x - _over_ranks(x.sum(0)) / count for x in (own, seen))
        sums = torch.stack([own_class * seen_class, own_class.square(), seen_class.square()]).sum(1)  # (3, K)
        between = 1 - _cosine(*_over_ranks(sums))
        return temperature**2 * (within.mean() + between.mean())


def _cosine(product: Tensor, own: Tensor, seen: Tensor) -> Tensor:
    """x y / (|x| |y|) from sums of products and squares; 0 where one of them does not vary."""
    return product / (own * seen).clamp(min=EPS**2).sqrt()


def _over_ranks(sums: Tensor) -> Tensor:
    """The sum over ranks; its backward sums the gradients over ranks too."""
    if world_size() == 1:
        return sums
    summed: Tensor = torch.distributed.nn.functional.all_reduce(sums)  # type: ignore[no-untyped-call]
    return summed
