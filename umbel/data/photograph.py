"""From any photograph file to an RGB JPEG of bounded size: orientation applied, metadata left behind."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".avif")
MAX_PIXELS = 178_956_970  # Pillow's own bound of a decompression bomb


class BadPhotographError(Exception):
    """A file that is no photograph, or a damaged one; the message says what is wrong with it."""


def find_photographs(folder: Path) -> list[Path]:
    """All image files below a folder, sorted; hidden files and folders are passed over."""
    found = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            found.append(path)
    return sorted(found)


def read_photograph(path: Path) -> Image.Image:
    """Decode a file into an upright RGB image.

    Raises:
        BadPhotographError: not an image, truncated, or with more than MAX_PIXELS pixels.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns from half its bound on.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise BadPhotographError("it is not an image") from error
    except Image.DecompressionBombError as error:
        raise BadPhotographError(f"it has more than {MAX_PIXELS:,} pixels") from error
    except MemoryError:
        raise
    except Exception as error:
        # A damaged file fails in its decoder or its EXIF reader, each with exceptions of its own.
        raise BadPhotographError(str(error) or type(error).__name__) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert grey, 16-bit, palette, CMYK and transparent images to RGB (transparent becomes white)."""
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        if levels.max(initial=0) > 255:
            # 16 bits: stretched over what occurs, since cameras use 10 to 16 of them.
            levels = (levels - levels.min()) * (255 / max(np.ptp(levels), 1))
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image.convert("RGB")


def encode_photograph(image: Image.Image, *, shorter_side: int, quality: int) -> bytes:
    """An RGB image as JPEG, its shorter side shrunk to `shorter_side` pixels where it is longer (never enlarged).

    Raises:
        BadPhotographError: longer than a JPEG can be.
    """
    width, height = image.size
    scale = shorter_side / min(width, height)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = io.BytesIO()
    try:
        image.save(buffer, "JPEG", quality=quality)
    except OSError as error:
        raise BadPhotographError(f"{width} x {height} pixels do not go into a JPEG") from error
    return buffer.getvalue()
