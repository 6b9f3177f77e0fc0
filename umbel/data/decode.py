"""JPEG bytes to a uint8 canvas: decoded, shrunk only where the photograph is larger than the canvas."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import resize

from umbel.data.photograph import BadPhotographError, refuse_bomb

FULL_SIZE = 1 << 16
"""A canvas that no JPEG exceeds: photographs keep their size."""


def decode(jpg: bytes, *, canvas: int) -> Tensor:
    """Decode a photograph.

    Args:
        jpg: JPEG bytes (turned upright by its EXIF orientation).
        canvas: bound of the longer side in pixels.

    Returns:
        (3, H, W) uint8, max(H, W) <= canvas.

    Raises:
        BadPhotographError: not a JPEG, damaged, or a decompression bomb (refused before it is decoded).
    """
    refuse_bomb(jpg)
    try:
        # bytearray: torch.frombuffer warns of a read-only buffer.
        data = torch.frombuffer(bytearray(jpg), dtype=torch.uint8)
        image: Tensor = decode_jpeg(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except (RuntimeError, ValueError) as error:
        # torchvision's message opens with the place in its source; the reason stands behind the last colon or comma.
        raise BadPhotographError(f"it cannot be decoded ({str(error).split(', ')[-1].splitlines()[0]})") from error
    height, width = image.shape[1:]
    longer = max(height, width)
    if longer > canvas:
        size = [max(1, round(height * canvas / longer)), max(1, round(width * canvas / longer))]
        image = resize(image, size, antialias=True)
    return image
