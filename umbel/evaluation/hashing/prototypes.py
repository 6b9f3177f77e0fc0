"""Bits of classes: what supervised CroVCA has the views of a labeled photograph predict.

Source: Image Hashing via Cross-View Code Alignment in the Age of Foundation Models (arXiv 2510.27584). The original's
prototypes are of one batch; a memory serves batches that hold few photographs of a class.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Prototypes:
    """The mean logits of every class, over the batches so far.

    Args:
        classes: L.
        bits: K.
        memory: share of a class's prototype that a batch with photographs of it leaves as it was; 0: of one batch
            alone, as in the original.
    """

    def __init__(self, classes: int, bits: int, *, memory: float, device: torch.device) -> None:
        if not 0 <= memory < 1:
            raise ValueError(f"memory must be at least 0 and less than 1, not {memory}")
        self.memory = memory
        self.mean = torch.full((classes, bits), torch.nan, device=device)  # (L, K), NaN: not seen yet

    def targets(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Take a batch in, and give the bits of its photographs.

        Args:
            logits: (V, B, K) of all views; no gradient flows.
            labels: (B, L) bool, the classes of every photograph.

        Returns:
            (B, K) of 0 and 1: the signs of the mean prototype of a photograph's classes; NaN without a class.
        """
        member = labels.T.to(logits.dtype)  # (L, B)
        count = member.sum(1, keepdim=True)
        batch = member @ logits.detach().mean(0) / count.clamp(min=1)
        new = torch.where(self.mean.isnan(), batch, self.memory * self.mean + (1 - self.memory) * batch)
        self.mean = torch.where(count > 0, new, self.mean)
        own = labels.to(logits.dtype)
        # Classes that were not seen have no photograph here: their NaN must not spread through the product.
        total = own @ self.mean.nan_to_num() / own.sum(1, keepdim=True)
        return torch.where(total.isnan(), total, (total > 0).to(total.dtype))
