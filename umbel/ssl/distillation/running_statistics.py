"""Running mean and deviation of a teacher's features, by which they are standardized.

Teachers differ in scale from channel to channel, and a few channels would decide every cosine. UNIC (arXiv 2408.05088)
standardizes so.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor, nn

from umbel.coding_rate import world_size

MOMENTUM = 0.99
EPS = 1e-5


class RunningStatistics(nn.Module):
    """Mean and variance of each channel: an average over all batches so far, from the hundredth on a moving one.

    Several ranks count as one that has all their rows. The buffers go into checkpoints.

    Args:
        width: D, channels.
    """

    mean: Tensor  # (D,)
    variance: Tensor  # (D,)
    batches: Tensor  # 0-d

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Take in a batch; one that is not finite is left out, as its step will be.

        Args:
            features: (..., D), this rank's rows; every rank has as many.
        """
        with torch.autocast(features.device.type, enabled=False):
            rows = features.to(self.mean.dtype).reshape(-1, len(self.mean))
            mean = _over_ranks(rows.mean(0))
            # Around the common mean: sums of squares would lose their digits where means are large.
            variance = _over_ranks((rows - mean).square().mean(0))
            good = (mean.isfinite() & variance.isfinite()).all()
            weight = torch.clamp(1 / (self.batches + 1), min=1 - MOMENTUM)
            step = mean - self.mean
            # The variance of a mixture of the old rows (share 1 - weight) and the new ones.
            mixed = (1 - weight) * self.variance + weight * variance + weight * (1 - weight) * step.square()
            self.variance.copy_(torch.where(good, mixed, self.variance))
            self.mean.copy_(torch.where(good, self.mean + weight * step, self.mean))
            self.batches.add_(good.to(self.batches.dtype))

    def forward(self, features: Tensor) -> Tensor:  # (..., D)
        """Features with mean 0 and deviation 1 in every channel; in float32 or higher."""
        with torch.autocast(features.device.type, enabled=False):
            return (features.to(self.mean.dtype) - self.mean) * (self.variance + EPS).rsqrt()


def _over_ranks(mean: Tensor) -> Tensor:
    """The mean over ranks of equal size."""
    ranks = world_size()
    if ranks > 1:
        torch.distributed.all_reduce(mean)
        mean /= ranks
    return mean
