"""Linear probe by stochastic gradient descent, as in DINOv2 (arXiv 2304.07193): a grid of learning rates at once.

All rates see the same batches in the same order: one matrix product serves the whole grid, and the gradient is written
out. The grid's other axes in the paper (blocks, pooling) need more than one stored feature and are not searched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from umbel.evaluation.logistic import Chosen
from umbel.evaluation.standardize import Standardize

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
BATCH, EPOCHS, MOMENTUM = 128, 10, 0.9


def linear(
    features: Tensor,
    labels: np.ndarray,
    validation: np.ndarray,
    *,
    seed: int,
    rates: Sequence[float] = RATES,
    epochs: int = EPOCHS,
    batch: int = BATCH,
) -> Chosen:
    """Train on all but the validation images, choose the rate by accuracy on these.

    Features are L2-normalized, then standardized by the images that are trained on. Weights begin at 0.01 times normal
    numbers, biases at 0; momentum 0.9, no weight decay, cosine from rate * batch / 256 to 0.

    Args:
        features: (N, C); labels: (N,) classes; validation: (N,) bool, the images that choose.

    Raises:
        ValueError: no image to train or to choose by, or a single class.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    if validation.all() or not validation.any() or len(classes) < 2:
        raise ValueError("a linear probe needs images to train and to choose by, and 2 classes")
    y = torch.from_numpy(numbers).to(features.device)
    trained, choosing = torch.from_numpy(~validation), torch.from_numpy(validation)
    prepare = Standardize(features[trained])
    weights, bias = train_grid(
        prepare(features[trained]), y[trained], len(classes), rates=rates, epochs=epochs, batch=batch, seed=seed
    )
    asked, right = prepare(features[choosing]), torch.zeros(len(rates), dtype=torch.int64)
    block = max(1, (1 << 23) // (len(rates) * len(classes)))
    for part, truth in zip(torch.split(asked, block), torch.split(y[choosing], block), strict=True):
        right += (_scores(part, weights, bias).argmax(2) == truth[:, None]).sum(0).cpu()
    tried = dict(zip(map(float, rates), (right.double() / len(asked)).tolist(), strict=True))
    best = max(range(len(rates)), key=lambda number: right[number])
    chosen = weights[:, best].contiguous(), bias[best]
    return Chosen(
        prepare=prepare, weights=chosen[0], bias=chosen[1], classes=classes, setting=float(rates[best]), tried=tried
    )


def train_grid(
    x: Tensor, y: Tensor, classes: int, *, rates: Sequence[float], epochs: int, batch: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Train one linear classifier for each learning rate, all on the same batches from the same start.

    Args:
        x: (N, C) float32; y: (N,) int64 class numbers 0 .. classes - 1.

    Returns:
        (C, G, K) weights and (G, K) biases for G rates.
    """
    generator = torch.Generator().manual_seed(seed)
    first = 0.01 * torch.randn((x.shape[1], 1, classes), generator=generator)
    weights = first.to(x.device).repeat(1, len(rates), 1)  # (C, G, K)
    bias = torch.zeros((len(rates), classes), device=x.device)
    speed, bias_speed = torch.zeros_like(weights), torch.zeros_like(bias)
    batch = min(batch, len(x))
    steps, step = epochs * (len(x) // batch), 0
    base = torch.tensor(rates, device=x.device)[:, None] * batch / 256  # (G, 1)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for rows in order[: len(x) // batch * batch].view(-1, batch).to(x.device):
            part = x[rows]
            residual = _scores(part, weights, bias).softmax(2)  # (b, G, K)
            residual.scatter_add_(2, y[rows].view(-1, 1, 1).expand(-1, len(rates), 1), _minus_one(residual))
            residual /= batch
            speed.mul_(MOMENTUM).view(x.shape[1], -1).addmm_(part.T, residual.flatten(1))
            bias_speed.mul_(MOMENTUM).add_(residual.sum(0))
            rate = base * (1 + math.cos(math.pi * step / steps)) / 2
            weights.addcmul_(speed, -rate)
            bias.addcmul_(bias_speed, -rate)
            step += 1
    return weights, bias


def _scores(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """(b, C), (C, G, K), (G, K) -> (b, G, K)."""
    return torch.addmm(bias.flatten(), x, weights.flatten(1)).view(len(x), *bias.shape)


def _minus_one(residual: Tensor) -> Tensor:
    return residual.new_full((1, 1, 1), -1).expand(len(residual), residual.shape[1], 1)
