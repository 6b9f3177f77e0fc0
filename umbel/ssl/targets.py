"""The training photographs' labels as the loss wants them: rows of shares and weights, looked up by sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from umbel.data.batch import Batch
from umbel.ssl.learner import Labels


@dataclass(frozen=True, kw_only=True)
class Targets:
    """A label for each photograph, or shares of several, and a weight."""

    label: np.ndarray  # (N,) int64 in 0 .. K - 1
    classes: int
    weight: np.ndarray  # (N,) float32, not negative
    smoothing: float = 0.0
    """Share of every target that is spread evenly over all classes."""
    soft: dict[int, tuple[np.ndarray, np.ndarray]] | None = None
    """Sample -> classes (n,) int64 and their shares (n,), which sum to 1; where it has none, the label is certain."""

    def of(self, batch: Batch) -> Labels:
        """A batch's labels, on the CPU; a slot whose photograph could not be read has weight 0."""
        shares = np.zeros((len(batch.sample), self.classes), dtype=np.float32)
        shares[np.arange(len(shares)), self.label[batch.sample]] = 1
        for row, sample in enumerate(batch.sample.tolist()):
            if self.soft is not None and sample in self.soft:
                columns, values = self.soft[sample]
                shares[row] = 0
                shares[row, columns] = values
        shares = shares * (1 - self.smoothing) + self.smoothing / self.classes
        return Labels(target=torch.from_numpy(shares.astype(np.float32)), weight=readable(batch, self.weight))


def readable(batch: Batch, weight: np.ndarray | None = None) -> torch.Tensor:
    """(B,) float32: the photographs' weights (1 without any), 0 for those that could not be read."""
    bad = {sample for sample, _ in batch.bad}
    good = np.array([sample not in bad for sample in batch.sample.tolist()], dtype=np.float32)
    return torch.from_numpy(good if weight is None else good * weight[batch.sample].astype(np.float32))
