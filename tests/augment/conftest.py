"""Images and uniform numbers for the tests of operations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture
def pictures() -> Callable[..., Tensor]:
    """Noise with black, white and gray areas, in whole levels of 255 as crops are: (n, 3, side, side)."""

    def make(n: int, side: int = 16, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(0, 256, (n, 3, side, side), generator=generator).float()
        quarter = side // 4
        x[:, :, :quarter, :quarter], x[:, :, :quarter, -quarter:], x[:, :, -quarter:, :quarter] = 0, 255, 77
        return x / 255

    return make


@pytest.fixture
def uniforms() -> Callable[..., np.ndarray]:
    """(n, draws) in [0, 1)."""
    return lambda n, draws, seed=0: np.random.default_rng(seed).random((n, draws))
