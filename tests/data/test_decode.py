"""JPEG bytes to a canvas: upright RGB, shrunk to the bound and never enlarged, bad bytes called bad."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from umbel.data.decode import decode
from umbel.data.photograph import BadPhotographError

Jpeg = Callable[..., bytes]


def test_decoded_as_pillow_does(jpeg: Jpeg) -> None:
    jpg = jpeg(1, width=90, height=60)
    found = decode(jpg, canvas=512)
    assert (found.dtype, tuple(found.shape)) == (torch.uint8, (3, 60, 90))
    expected = np.asarray(Image.open(io.BytesIO(jpg)).convert("RGB")).astype(int)
    assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() <= 3


@pytest.mark.parametrize(
    ("size", "canvas", "shape"),
    [
        ((90, 60), 90, (60, 90)),
        ((90, 60), 512, (60, 90)),
        ((90, 60), 45, (30, 45)),
        ((60, 90), 45, (45, 30)),
        ((300, 2), 30, (1, 30)),
        ((1, 1), 16, (1, 1)),
    ],
)
def test_the_longer_side_is_bounded_and_nothing_is_enlarged(
    size: tuple[int, int], canvas: int, shape: tuple[int, int], jpeg: Jpeg
) -> None:
    assert tuple(decode(jpeg(1, width=size[0], height=size[1]), canvas=canvas).shape) == (3, *shape)


def test_shrinking_is_smooth() -> None:
    """Noise is averaged over the pixels that a smaller one stands for (deviation 12, where sampling alone keeps 37)."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8))
    found = decode(encoded(noise, quality=100), canvas=64).float()
    assert found[0].std() < 20


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_grey_and_cmyk_become_rgb() -> None:
    assert tuple(decode(encoded(Image.new("L", (20, 10), 77)), canvas=64).shape) == (3, 10, 20)
    red = decode(encoded(Image.new("RGB", (20, 10), (200, 30, 40)).convert("CMYK")), canvas=64)
    assert (red.float().mean((1, 2)) - torch.tensor([200.0, 30, 40])).abs().max() < 12


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert tuple(decode(encoded(Image.new("RGB", (20, 10)), exif=exif), canvas=64).shape) == (3, 20, 10)


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_bytes_are_bad(progressive: bool, jpeg: Jpeg) -> None:
    image = Image.open(io.BytesIO(jpeg(1, width=300, height=200)))
    jpg = encoded(image, progressive=progressive, quality=95)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(BadPhotographError) as caught:
            decode(jpg[: int(len(jpg) * share)], canvas=64)
        assert "\n" not in str(caught.value)
        assert "/" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n" + b"\0" * 40]
)
def test_what_is_no_jpeg_is_bad(content: bytes) -> None:
    with pytest.raises(BadPhotographError):
        decode(content, canvas=64)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"comment": b"\xff\xc0 no header"}, {"exif": b"Exif\0\0"}]
)
def test_a_frame_of_billions_of_pixels_is_bad_before_there_is_room_made_for_it(options: dict[str, object]) -> None:
    jpg = bytearray(encoded(Image.new("RGB", (20, 10)), **options))
    header = jpg.index((10).to_bytes(2) + (20).to_bytes(2))
    jpg[header : header + 4] = (65000).to_bytes(2) * 2
    with pytest.raises(BadPhotographError, match="it has more than 178,956,970 pixels"):
        decode(bytes(jpg), canvas=64)


def test_damage_is_bad_or_survived_and_nothing_else(jpeg: Jpeg) -> None:
    whole, dice = jpeg(2, width=64, height=64), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in dice.integers(2, len(whole), dice.integers(1, 6)):
            # The size fields stay as they are: a photograph of 65535 pixels a side is a matter of memory.
            if not whole.index(b"\xff\xc0") <= place < whole.index(b"\xff\xc0") + 10:
                damaged[place] = dice.integers(256)
        try:
            image = decode(bytes(damaged), canvas=32)
        except BadPhotographError:
            continue
        assert max(image.shape[1:]) <= 32
