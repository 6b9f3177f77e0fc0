"""What makes a bundle's answers honest: a temperature for its confidence, and a threshold under which it says unknown.

Source of the temperature: C. Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# scipy comes with scikit-learn.
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped, unused-ignore]

RECALL = 0.95
LOWEST, HIGHEST = 1e-4, 1e3


def fit_temperature(logits: NDArray[np.floating], truth: NDArray[np.int64], *, smoothing: float = 0.0) -> float:
    """The temperature T at which softmax(logits / T) has the least cross entropy.

    The loss is convex in 1 / T, so that the least one is found; it lies between 1e-4 and 1e3.

    Args:
        logits: (Q, K); truth: (Q,) columns.
        smoothing: share of every target that is spread evenly over all classes.
    """
    own = (1 - smoothing) * logits[np.arange(len(truth)), truth] + smoothing * logits.mean(1)
    greatest = logits.max(1, keepdims=True)

    def loss(log: float) -> float:
        scale = np.exp(-log)
        return float((np.log(np.exp((logits - greatest) * scale).sum(1)) - (own - greatest[:, 0]) * scale).mean())

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def fit_head_temperature(logits: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """The temperature of a trained head, which may be right about every photograph that it is fitted on.

    Nothing would then be too sure, and T fell to its lowest. So no more is believed than Q photographs can show: the
    targets are smoothed by 1 / (Q + 2), as in Platt scaling.

    Args:
        logits: (Q, K); truth: (Q,) columns.
    """
    return fit_temperature(logits, truth, smoothing=1 / (len(truth) + 2))


def accepting(similarity: NDArray[np.floating], *, recall: float = RECALL) -> float:
    """The highest threshold at or above which a share of photographs of known classes lies.

    Args:
        similarity: (Q,) of photographs of known classes.
    """
    return float(np.sort(similarity)[::-1][int(np.ceil(recall * len(similarity))) - 1])


def class_means(
    features: NDArray[np.floating], columns: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The head of nearest class means: mean (C,), weight (K, C), bias (K,).

    Features of length 1, less their mean, of length 1 again, averaged for each class. The nearest mean c of a feature q
    has the greatest q c - |c|^2 / 2, which is this head's logit.

    Args:
        features: (N, C); columns: (N,) classes, each of which occurs.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    mean = unit.astype(np.float64).mean(0)
    centered = unit - mean
    centered /= np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
    weight = np.zeros((classes, features.shape[1]))
    np.add.at(weight, columns, centered)
    weight /= np.bincount(columns, minlength=classes)[:, None]
    # What is stored is float32: the bias must be that of the stored weight.
    stored = weight.astype(np.float32)
    bias = -np.square(stored.astype(np.float64)).sum(1) / 2
    return mean.astype(np.float32), stored, bias.astype(np.float32)
