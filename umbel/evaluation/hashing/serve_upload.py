"""What a browser sends as a photograph: bounded in bytes and pixels, and believed only once it has been decoded."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from umbel.data.photograph import BadPhotographError, read_photograph

MOST_BYTES = 20 << 20
MOST_PIXELS = 40_000_000
"""120 MB as RGB; cameras' own files are mostly below."""
FORMATS = ("JPEG", "PNG", "WEBP")
"""What browsers and cameras send; rarer decoders are not for strangers' bytes."""


class RefusedError(Exception):
    """A request that is answered by a status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


def decode_upload(content: bytes) -> Image.Image:
    """The photograph in bytes that came from elsewhere, upright and RGB.

    Raises:
        RefusedError: not a photograph, damaged, or with too many pixels, which is seen before it is decoded.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise RefusedError(413, f"This photograph has far more than {MOST_PIXELS // 1_000_000} megapixels.") from error
    except UnidentifiedImageError as error:
        raise RefusedError(415, "This file is not a JPEG, PNG or WebP photograph.") from error
    except Exception as error:  # damage shows in many kinds of exception
        raise RefusedError(415, "This photograph is damaged and cannot be read.") from error
    if width * height > MOST_PIXELS:
        raise RefusedError(
            413,
            f"This photograph has {width * height / 1e6:.0f} megapixels ({width} x {height}), and at most "
            f"{MOST_PIXELS // 1_000_000} are taken: make it smaller.",
        )
    try:
        return read_photograph(content)
    except BadPhotographError as error:
        raise RefusedError(415, f"This photograph cannot be read: {error}.") from error
