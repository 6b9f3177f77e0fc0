"""What features and labels must be before anything is measured on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = np.ndarray | Tensor


def check_features(features: Any, name: str) -> Tensor:
    """Features as a tensor (N, C), on their device.

    Raises:
        ValueError: another shape, empty, or not finite.
    """
    tensor = features.detach() if isinstance(features, Tensor) else torch.from_numpy(np.ascontiguousarray(features))
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(f"{name} must be of shape (N, C), not {tuple(tensor.shape)}")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} hold numbers that are not finite")
    return tensor


def check_labels(labels: Any, count: int | None, name: str) -> NDArray[np.int64]:
    """Labels as numpy (N,) int64.

    Raises:
        ValueError: another shape or length, not whole numbers, or negative ones.
    """
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1 or (count is not None and len(array) != count):
        raise ValueError(f"{name} must be of shape ({'N' if count is None else count},), not {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers, not {array.dtype}")
    if array.size and array.min() < 0:
        raise ValueError(f"{name} must not be negative: leave out the rows without a label")
    return array.astype(np.int64)
