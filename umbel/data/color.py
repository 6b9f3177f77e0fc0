"""Color profiles: what a photograph's numbers mean, told in sRGB, which is what every other photograph is taken for.

Ignoring a wide profile (Display P3 of phones, Adobe RGB of cameras) would pale the colors; dropping it without
converting would make that final. Source: ICC.1, through LittleCMS.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

TOLERANCE = 4
"""Of 255 levels: a profile that moves no color further is sRGB under another name."""


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB or CMYK image in sRGB; unchanged where its profile is sRGB, missing, damaged or of another mode."""
    transform = _transform(profile, image.mode) if profile and image.mode in ("RGB", "CMYK") else None
    if transform is None:
        return image
    converted: Image.Image | None = ImageCms.applyTransform(image, transform)
    return image if converted is None else converted


def is_srgb(profile: bytes | None) -> bool:
    """Whether an RGB image with this profile means the same colors without it."""
    return not profile or _transform(profile, "RGB") is None


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB; None where there is nothing to convert, or no way."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if mode == "RGB" and _farthest(found) <= TOLERANCE else found


def _farthest(transform: ImageCms.ImageCmsTransform) -> int:
    """How far a transform moves a color of a grid over all RGB, in levels of 255."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    moved = ImageCms.applyTransform(Image.fromarray(grid), transform)
    return 255 if moved is None else int(np.abs(np.asarray(moved).astype(int) - grid).max())
