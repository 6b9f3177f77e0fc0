"""JPEG bytes to a uint8 canvas: decoded, shrunk only where the photograph is larger than the canvas."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import resize

from umbel.data.photograph import MAX_PIXELS, BadPhotographError


def decode(jpg: bytes, *, canvas: int) -> Tensor:
    """Decode a photograph.

    Args:
        jpg: JPEG bytes (turned upright by its EXIF orientation).
        canvas: bound of the longer side in pixels.

    Returns:
        (3, H, W) uint8, max(H, W) <= canvas.

    Raises:
        BadPhotographError: not a JPEG, damaged, or with more than MAX_PIXELS pixels.
    """
    if not jpg.startswith(b"\xff\xd8"):
        raise BadPhotographError("it is not a JPEG")
    if _pixels(jpg) > MAX_PIXELS:
        raise BadPhotographError(f"it has more than {MAX_PIXELS:,} pixels")
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


def _pixels(jpg: bytes) -> int:
    """Height times width as the frame header tells them, before the decoder makes room for them; 0 without a header."""
    at = jpg.find(b"\xff", 2)
    while 0 <= at < len(jpg) - 8:
        marker = jpg[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(jpg[at + 5 : at + 7]) * int.from_bytes(jpg[at + 7 : at + 9])
        # Fill bytes and markers that stand alone have no length behind them.
        alone = marker == 0xFF or marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9
        at = jpg.find(b"\xff", at + 1 if alone else at + 2 + int.from_bytes(jpg[at + 2 : at + 4]))
    return 0
