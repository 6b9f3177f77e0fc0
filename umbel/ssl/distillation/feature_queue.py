"""A queue of the teacher's features of earlier photographs, which the relational loss compares with.

It lies on the device and in checkpoints, is the same on every rank, and is as long as half the photographs at most, so
that no photograph meets itself of an epoch before.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor, nn

from umbel.coding_rate import world_size

LONGEST = 8192


def queue_length(photographs: int, longest: int = LONGEST) -> int:
    """Q: at most `longest`, half the photographs, at least 1."""
    return max(1, min(longest, photographs // 2))


class FeatureQueue(nn.Module):
    """The last Q features, oldest overwritten first.

    Args:
        length: Q.
        width: D.
    """

    features: Tensor  # (Q, D)
    taken: Tensor  # 0-d int64

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(length, width))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    @property
    def filled(self) -> Tensor:
        """(Q,) bool: places that hold a feature."""
        return torch.arange(len(self.features), device=self.taken.device) < self.taken

    @torch.no_grad()
    def add(self, features: Tensor) -> None:
        """Take in a batch; a feature that is not finite leaves its place as it was.

        Args:
            features: (B, D), this rank's rows; those of all ranks are taken in, in the order of ranks.
        """
        rows = features.detach().to(self.features.dtype).contiguous()
        if world_size() > 1:
            gathered = [torch.empty_like(rows) for _ in range(world_size())]
            torch.distributed.all_gather(gathered, rows)
            rows = torch.cat(gathered)
        length = len(self.features)
        # Of a batch that is longer than the queue only the end would remain: two rows must not write to one place.
        skipped = max(0, len(rows) - length)
        rows = rows[skipped:]
        places = (self.taken + skipped + torch.arange(len(rows), device=rows.device)) % length
        good = rows.isfinite().all(1, keepdim=True)
        self.features.index_copy_(0, places, torch.where(good, rows, self.features[places]))
        self.taken.add_(skipped + len(rows))
