"""From any photograph file to an RGB JPEG of bounded size: orientation applied, metadata left behind."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from umbel.data.color import is_srgb, to_srgb
from umbel.data.jpeg import BASELINE, EXTENDED, PROGRESSIVE, JpegError, read_frame, strip_metadata

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".avif")
MAX_PIXELS = 178_956_970
"""More make a decompression bomb (Pillow's own bound): half a gigabyte as RGB."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Pixels times passes over them: a small progressive JPEG may ask for thousands of passes, hours of work."""
MAX_BYTES = 1 << 30
"""No photograph's file is larger."""
ORIENTATION = 0x0112


class BadPhotographError(Exception):
    """A file that is no photograph, or a damaged one; the message says what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class SizeBound:
    """The side of a photograph that is bounded, in pixels; exactly one is given."""

    shorter: int | None = None
    longer: int | None = None

    def of(self, width: int, height: int) -> tuple[int, int]:
        """The size of a photograph within the bound: shrunk where it is larger, never enlarged."""
        scale = self.shorter / min(width, height) if self.shorter else (self.longer or 0) / max(width, height)
        if scale >= 1:
            return width, height
        return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A photograph as it goes into a shard."""

    jpg: bytes
    original_size: tuple[int, int]
    """Width and height of the upright original."""


def find_photographs(folder: Path) -> list[Path]:
    """All image files below a folder, sorted, also behind links; hidden files and folders are passed over."""
    return sorted(_photographs_below(folder, frozenset()))


def _photographs_below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Image files below a folder; `above`: the real folders on the way to it, to which a link would be a loop."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(path)):
                yield from _photographs_below(path, above | {real})
            elif path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path):
                yield path


def convert_photograph(content: bytes, *, bound: SizeBound, quality: int) -> Converted:
    """A photograph file's bytes as the JPEG that is stored: a JPEG that may stay as it is keeps its every pixel.

    Raises:
        BadPhotographError: see `read_photograph`; or longer than a JPEG can be.
    """
    kept = keep_jpeg(content, bound)
    if kept is not None:
        return kept
    image = read_photograph(content)
    return Converted(jpg=encode_photograph(image, bound=bound, quality=quality), original_size=image.size)


def keep_jpeg(content: bytes, bound: SizeBound) -> Converted | None:
    """The JPEG less its metadata, if nothing but that is to be changed: within the bound, RGB of 8 bits, upright, sRGB.

    None says that it has to be decoded and encoded anew, or that it is bad: `read_photograph` will tell.
    """
    try:
        frame = read_frame(content)
        size = (frame.width, frame.height)
        ordinary = frame.coding in (BASELINE, EXTENDED, PROGRESSIVE) and (frame.precision, frame.components) == (8, 3)
        if not ordinary or 0 in size or bound.of(*size) != size:
            return None
        refuse_bomb(content)
        with _quietly(), Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if image.getexif().get(ORIENTATION, 1) in range(2, 9) or not is_srgb(image.info.get("icc_profile")):
                return None
        jpg = strip_metadata(content)
        # What is stored is what must decode.
        with Image.open(io.BytesIO(jpg), formats=["JPEG"]) as image:
            image.load()
            return Converted(jpg=jpg, original_size=size) if (image.mode, image.size) == ("RGB", size) else None
    except MemoryError:
        raise
    except Exception:
        # Damage shows in many kinds of exception; reading it the long way gives the reason.
        return None


def read_photograph(source: Path | bytes) -> Image.Image:
    """Decode a file into an upright RGB image in sRGB.

    Raises:
        BadPhotographError: not there, not an image, truncated, or a decompression bomb (refused before it is decoded).
    """
    content = source if isinstance(source, bytes) else read_bytes(source)
    try:
        with _quietly(), Image.open(io.BytesIO(content)) as image:
            _refuse_pixels(*image.size)
            if image.format in ("JPEG", "MPO"):
                refuse_bomb(content)
            return to_rgb(ImageOps.exif_transpose(image), image.info.get("icc_profile"))
    except UnidentifiedImageError as error:
        raise BadPhotographError("it is not an image") from error
    except Image.DecompressionBombError as error:
        raise BadPhotographError(f"it has more than {MAX_PIXELS:,} pixels") from error
    except (MemoryError, BadPhotographError):
        raise
    except Exception as error:
        # A damaged file fails in its decoder or its EXIF reader, each with exceptions of its own.
        raise BadPhotographError(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without Pillow's warnings: of odd metadata, which is left behind, and of sizes from half its bound on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_bytes(path: Path) -> bytes:
    """A photograph file's bytes.

    Raises:
        BadPhotographError: it cannot be read, or is larger than MAX_BYTES.
    """
    try:
        told = path.stat()
        if not (stat.S_ISREG(told.st_mode) or stat.S_ISDIR(told.st_mode)):
            raise BadPhotographError("it is no file")  # a pipe or a device would be waited for
        if told.st_size > MAX_BYTES:
            raise BadPhotographError(f"its file is larger than {MAX_BYTES >> 30} GiB")
        return path.read_bytes()
    except OSError as error:
        raise BadPhotographError(f"it cannot be read ({error.strerror})") from error


def refuse_bomb(jpg: bytes) -> None:
    """Read a JPEG's header and refuse what would take too much memory or time to decode.

    Raises:
        BadPhotographError: no JPEG, more than MAX_PIXELS pixels, or more than MAX_SCANNED_PIXELS in all its scans.
    """
    try:
        frame = read_frame(jpg)
    except JpegError as error:
        raise BadPhotographError(str(error)) from error
    _refuse_pixels(frame.width, frame.height)
    # An upper bound of the number of scans: FF DA does not occur in coded data.
    scans = jpg.count(b"\xff\xda")
    if scans * frame.width * frame.height > MAX_SCANNED_PIXELS:
        raise BadPhotographError(f"it has {scans:,} scans of {frame.width} x {frame.height} pixels")


def _refuse_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadPhotographError(f"it has more than {MAX_PIXELS:,} pixels ({width} x {height})")


def to_rgb(image: Image.Image, profile: bytes | None = None) -> Image.Image:
    """Convert grey, 16-bit, palette, CMYK and transparent images to RGB (transparent becomes white), in sRGB."""
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        if not np.isfinite(levels).all():
            raise BadPhotographError("it has pixels that are not finite numbers")
        if image.mode == "F" and levels.max(initial=0) <= 1:
            levels = levels * 255  # shares of white, as scientific software stores them
        if levels.max(initial=0) > 255:
            # 16 bits: stretched over what occurs, since cameras use 10 to 16 of them.
            levels = (levels - levels.min()) * (255 / max(np.ptp(levels), 1))
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    if image.mode == "CMYK":
        image = to_srgb(image, profile)  # ink to light by the profile where there is one; its like does not fit RGB
    return to_srgb(image.convert("RGB"), profile)


def encode_photograph(image: Image.Image, *, bound: SizeBound, quality: int) -> bytes:
    """An RGB image as JPEG, shrunk to the bound where it is larger (never enlarged).

    Raises:
        BadPhotographError: longer than a JPEG can be.
    """
    size = bound.of(*image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = io.BytesIO()
    try:
        image.save(buffer, "JPEG", quality=quality, comment=b"")  # Pillow would carry the original's over
    except OSError as error:
        raise BadPhotographError(f"{image.width} x {image.height} pixels do not go into a JPEG") from error
    return buffer.getvalue()
