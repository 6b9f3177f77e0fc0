"""A perceptual hash: photographs that look the same have nearly the same bits, whatever their size and compression.

The signs of the lowest frequencies of a cosine transform of the luminance, against their median, in two resolutions:
64 coarse bits to find candidates by, 256 fine ones to tell a copy from a picture that is merely composed alike.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import dctn
from torch import Tensor
from torchvision.transforms.v2.functional import resize

THUMBNAIL = 64
COARSE, FINE = 8, 16  # lowest frequencies in each direction
COARSE_REACH = 7
"""Coarse bits in which candidates may differ."""
FINE_BITS = FINE * FINE
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def perceptual_hash(photograph: Tensor) -> tuple[np.uint64, np.ndarray]:
    """Hash a photograph.

    Args:
        photograph: (3, H, W) uint8.

    Returns:
        the coarse bits as one number, and the fine bits as (4,) uint64.
    """
    small = resize(photograph, [THUMBNAIL, THUMBNAIL], antialias=True).numpy()
    frequencies = dctn(np.tensordot(LUMINANCE, small.astype(np.float32), 1), norm="ortho")
    return _bits(frequencies, COARSE)[0], _bits(frequencies, FINE)


def _bits(frequencies: np.ndarray, side: int) -> np.ndarray:
    """Which of the lowest side x side frequencies lie above their median (the mean brightness left out of it)."""
    lowest = frequencies[:side, :side].ravel()
    return np.packbits(lowest > np.median(lowest[1:])).view(np.uint64)
