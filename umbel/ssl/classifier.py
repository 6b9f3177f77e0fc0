"""A backbone with a linear head, trained on labels that may be soft, mixed and weighted.

The head reads features that are standardized by statistics of the first weights' features, so that its rate does not
hang on their scale; what is exported is one linear layer of the feature as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from umbel.coding_rate import at_least_float32
from umbel.evaluation.exporting.classifier_head import ClassifierHead
from umbel.ssl.learner import Labels, Learner

HeadChoice = Literal["whole", "linear"]
LEAST_DEVIATION = 0.01
"""Of a channel of features, as a share of the mean over channels, that the head divides by."""


class Classifier(Learner):
    """Logits of classes by a backbone of timm's and a linear layer.

    Args:
        backbone: (B, 3, H, W) -> (B, C).
        classes: their names, K of them.
        mean, std: (C,) of the features that the head reads first.
        frozen: leave the backbone as it is.
    """

    terms = ("loss", "train_accuracy")

    def __init__(self, backbone: Any, classes: Sequence[str], *, mean: Tensor, std: Tensor, frozen: bool) -> None:
        super().__init__()
        self.backbone, self.classes, self.frozen = backbone.requires_grad_(not frozen), tuple(classes), frozen
        self.head = nn.Linear(len(mean), len(self.classes))
        # At zero all classes are equally likely, and features keep their shape until the head has found one.
        nn.init.zeros_(self.head.weight), nn.init.zeros_(self.head.bias)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.clone())
        # A channel that is dead at first would be divided by its rounding error, and as it wakes swamp all others.
        self.register_buffer("std", std.clamp(min=max(LEAST_DEVIATION * float(std.mean()), 1e-6)))

    def train(self, mode: bool = True) -> Classifier:
        """A frozen backbone stays in eval mode: what it draws or averages is no part of the training."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def logits(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        """(B, K) in float32 or higher."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone(images)
        with torch.autocast(device_type=images.device.type, enabled=False):
            found: Tensor = self.head((at_least_float32(features) - self.mean) / self.std)
        return found

    def forward(self, images: Tensor, labels: Labels) -> Tensor:
        """See `Learner`."""
        if labels.target is None:
            raise ValueError("a classifier needs labels")
        logits = self.logits(images)
        right = (logits.argmax(1) == labels.target.argmax(1)).to(logits.dtype)
        return torch.stack([weighted_cross_entropy(logits, labels.target, labels.weight), right.mean()])

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight (K, C) and bias (K,) of the feature as it is."""
        weight = self.head.weight.detach().double() / self.std.double()
        bias = self.head.bias.detach().double() - weight @ self.mean.double()
        return weight.float().cpu().numpy(), bias.float().cpu().numpy()

    def write_beside(self, folder: Path, validation: dict[str, Any] | None) -> None:
        """The head; before the first validation nothing tells its temperature and threshold, and they are 1 and 0."""
        weight, bias = self.folded()
        told = validation or {}
        ClassifierHead(
            weight=weight,
            bias=bias,
            classes=self.classes,
            temperature=told.get("temperature", 1.0),
            threshold=told.get("threshold", 0.0),
            measured=told,
        ).write(folder)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1/B sum over images of weight x cross entropy of a row of shares.

    Over B and not over the sum of the weights: so any division of a batch into ranks and micro-batches adds up alike.

    Args:
        logits, target: (B, K); weight: (B,).
    """
    own = -(target * logits.log_softmax(1)).sum(1)
    return (weight * own).mean()
