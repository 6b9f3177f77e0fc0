"""Multinomial logistic regression on frozen features, its strength chosen on validation data.

The loss is scikit-learn's: C times the sum of cross entropies plus half the squared weights (biases are free).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

# scipy comes with scikit-learn.
from scipy.optimize import minimize  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from umbel.evaluation.standardize import Standardize

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Rows whose class scores are held at a time: 64 MiB with 4,271 classes.
CHUNK = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A linear classifier on prepared features, and how its setting was chosen."""

    prepare: Standardize
    weights: Tensor  # (C, K) float32
    bias: Tensor  # (K,)
    classes: np.ndarray  # (K,) labels
    setting: float
    tried: dict[float, float]
    """Accuracy on validation data by setting."""

    def probabilities(self, features: Tensor) -> Tensor:
        """(Q, C) -> (Q, K)."""
        return (self.prepare(features) @ self.weights + self.bias).softmax(1)


def fit(
    x: Tensor, y: Tensor, classes: int, *, strength: float, start: Tensor | None = None, steps: int = 200
) -> Tensor:
    """Minimize the loss by L-BFGS: (C + 1, K) float64 weights, the last row the biases.

    Args:
        x: (N, C) features; y: (N,) int64 class numbers 0 .. classes - 1.
        strength: C of scikit-learn; larger is less regularization.
        start: (C + 1, K), where to begin: the solution for a similar strength.
    """
    shape = (x.shape[1] + 1, classes)
    block = max(1, CHUNK // classes)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat).view(shape).to(x.device, x.dtype)
        loss, gradient = 0.0, torch.zeros_like(w)
        for first in range(0, len(x), block):
            part, truth = x[first : first + block], y[first : first + block, None]
            log = torch.addmm(w[-1], part, w[:-1]).log_softmax(1)
            loss -= float(log.gather(1, truth).sum(dtype=torch.float64))
            residual = log.exp_().scatter_add_(1, truth, torch.full_like(log[:, :1], -1))
            gradient[:-1].addmm_(part.T, residual)
            gradient[-1] += residual.sum(0)
        # Divided by the images, so that the tolerance means the same for any number of them.
        gradient /= len(x)
        pull = 1 / (strength * len(x))
        gradient[:-1].add_(w[:-1], alpha=pull)
        penalty = 0.5 * pull * float(w[:-1].square().sum(dtype=torch.float64))
        return loss / len(x) + penalty, gradient.double().flatten().cpu().numpy()

    first = np.zeros(shape).ravel() if start is None else start.double().flatten().cpu().numpy()
    options = {"maxiter": steps, "maxcor": 10, "gtol": 1e-6, "ftol": 1e-10}
    found = minimize(loss_and_gradient, first, jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).view(shape)


def logistic(
    features: Tensor,
    labels: np.ndarray,
    validation: np.ndarray,
    *,
    strengths: Sequence[float] = STRENGTHS,
    steps: int = 200,
) -> Chosen:
    """Choose the strength by accuracy on the validation images, then fit on all images.

    Features are L2-normalized, then standardized by the images that are fitted. The smallest of equally good strengths
    is taken; each fit begins where the one before it ended.

    Args:
        features: (N, C); labels: (N,) classes; validation: (N,) bool, the images that choose.

    Raises:
        ValueError: no image to fit or to choose by, or a single class.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    if validation.all() or not validation.any() or len(classes) < 2:
        raise ValueError("a logistic regression needs images to fit and to choose by, and 2 classes")
    y = torch.from_numpy(numbers).to(features.device)
    fitted, choosing = torch.from_numpy(~validation), torch.from_numpy(validation)
    prepare = Standardize(features[fitted])
    x, asked = prepare(features[fitted]), prepare(features[choosing])
    weights, tried = None, {}
    for strength in sorted(strengths):
        weights = fit(x, y[fitted], len(classes), strength=strength, start=weights, steps=steps)
        w = weights.to(x.device, x.dtype)
        tried[strength] = float(((asked @ w[:-1] + w[-1]).argmax(1) == y[choosing]).double().mean())
    best = max(tried, key=tried.__getitem__)
    prepare = Standardize(features)
    final = fit(prepare(features), y, len(classes), strength=best, steps=steps)
    w = final.to(features.device, torch.float32)
    return Chosen(prepare=prepare, weights=w[:-1], bias=w[-1], classes=classes, setting=best, tried=tried)
