"""A JPEG's segments: its size is told without decoding, and its metadata goes without a pixel changing."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torchvision.io import decode_jpeg

from umbel.data.jpeg import (
    BASELINE,
    COMMENT,
    END,
    PROGRESSIVE,
    SCAN,
    START,
    Frame,
    JpegError,
    read_frame,
    segments,
    strip_metadata,
)

Picture = Callable[..., Image.Image]
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0, "quality": 97},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "restart markers": {"restart_marker_blocks": 3},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
    "RGB inside": {"keep_rgb": True},
    "optimized": {"optimize": True},
}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


def encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_metadata(image: Image.Image, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x8825] = "SECRET-Maker", {1: "N", 2: (1.0, 2.0, 3.0)}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    jpg = encoded(image, exif=exif, xmp=b"<x>SECRET</x>", icc_profile=profile, comment=b"SECRET comment", **options)
    iptc = b"\xff\xed\x00\x0cSECRET-IP\0"
    extension = b"\xff\xe0\x00\x0eJFXX\0SECRET!"
    return jpg[:2] + iptc + extension + jpg[2:] + b"SECRET behind the end"


def decodings(jpg: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The pixels by Pillow and by torchvision."""
    by_torch = decode_jpeg(torch.frombuffer(bytearray(jpg), dtype=torch.uint8))
    return np.asarray(Image.open(io.BytesIO(jpg))), by_torch.numpy()


@every_kind
def test_metadata_goes_and_every_pixel_stays(options: dict[str, Any], picture: Picture) -> None:
    jpg = with_metadata(picture(5, width=90, height=70), **options)
    assert jpg.count(b"SECRET") >= 6
    bare = strip_metadata(jpg)
    assert b"SECRET" not in bare
    assert b"Exif" not in bare
    assert b"ICC_PROFILE" not in bare
    for before, after in zip(decodings(jpg), decodings(bare), strict=True):
        assert np.array_equal(before, after)
    assert strip_metadata(bare) == bare


@every_kind
def test_a_jpeg_without_metadata_stays_byte_for_byte(options: dict[str, Any], picture: Picture) -> None:
    jpg = encoded(picture(5, width=90, height=70), **options)
    assert strip_metadata(jpg) == jpg


def test_colors_of_rgb_inside_need_adobes_segment(picture: Picture) -> None:
    jpg = encoded(picture(5), keep_rgb=True)
    assert b"Adobe" in strip_metadata(jpg)


def test_thumbnails_of_jfif_go_and_its_header_stays(picture: Picture) -> None:
    jpg = encoded(picture(5))
    assert jpg[2:4] == b"\xff\xe0"
    thumbnail = b"\xff\xe0" + (16 + 12).to_bytes(2, "big") + jpg[6:18] + b"\x02\x02" + b"SECRET_PIXEL"
    with_thumbnail = jpg[:2] + thumbnail + jpg[20:]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(with_thumbnail))), np.asarray(Image.open(io.BytesIO(jpg))))
    assert strip_metadata(with_thumbnail) == jpg


def test_comments_between_scans_go(picture: Picture) -> None:
    jpg = encoded(picture(5, width=90, height=70), progressive=True)
    second = [segment for segment in segments(jpg) if segment.marker == SCAN][1]
    told = jpg[: second.start] + b"\xff\xfe\x00\x08SECRET" + jpg[second.start :]
    assert COMMENT in {segment.marker for segment in segments(told)}
    assert strip_metadata(told) == jpg


def test_segments_cover_the_file_from_start_to_end(picture: Picture) -> None:
    for options in KINDS.values():
        jpg = encoded(picture(5, width=90, height=70), **options)
        found = list(segments(jpg + b"behind"))
        assert [found[0].marker, found[-1].marker] == [START, END]
        assert b"".join(jpg[one.start : one.stop] for one in found) == jpg


def test_bytes_between_segments_are_passed_over_as_libjpeg_does(picture: Picture) -> None:
    jpg = encoded(picture(5))
    padded = jpg[:20] + b"\x00rubbish\xff\x00\xff\xff\xff" + jpg[20:]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(padded))), np.asarray(Image.open(io.BytesIO(jpg))))
    assert strip_metadata(padded) == jpg


def test_the_frame_is_told() -> None:
    image = Image.new("RGB", (321, 123))
    assert read_frame(encoded(image)) == Frame(coding=BASELINE, precision=8, width=321, height=123, components=3)
    assert read_frame(encoded(image, progressive=True)).coding == PROGRESSIVE
    assert read_frame(encoded(image.convert("L"))).components == 1
    assert read_frame(encoded(image.convert("CMYK"))).components == 4


def test_tables_in_front_of_the_frame_are_no_frame(picture: Picture) -> None:
    jpg = encoded(picture(5))
    parts = {"frame": b"", "tables": b"", "rest": b""}
    for one in segments(jpg):
        kind = {0xC0: "frame", 0xC4: "tables"}.get(one.marker, "rest")
        parts[kind] += jpg[one.start : one.stop]
    scan = parts["rest"].index(b"\xff\xda")
    moved = parts["rest"][:scan] + parts["tables"] + parts["frame"] + parts["rest"][scan:]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(moved))), np.asarray(Image.open(io.BytesIO(jpg))))
    assert read_frame(moved) == read_frame(jpg)
    assert strip_metadata(moved) == moved


def test_the_frame_of_the_photograph_is_told_not_that_of_its_thumbnail(picture: Picture) -> None:
    thumbnail = encoded(Image.new("RGB", (16, 16)))
    exif = b"Exif\0\0" + thumbnail
    jpg = encoded(picture(5))
    whole = jpg[:2] + b"\xff\xe1" + (2 + len(exif)).to_bytes(2, "big") + exif + jpg[2:]
    assert (read_frame(whole).width, read_frame(whole).height) == (48, 36)
    assert strip_metadata(whole) == jpg


def test_every_truncation_is_told(picture: Picture) -> None:
    jpg = encoded(picture(5), progressive=True)
    for length in range(len(jpg)):
        with pytest.raises(JpegError):
            strip_metadata(jpg[:length])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xda\x00\x02\xff\xd9",
        b"\xff\xd8\xff\xc0\x00\x00",
        b"\xff\xd8\xff\xc0\x00\x04\x08\x00\xff\xd9",
        b"\xff\xd8" + b"\xff" * 4_000_000,
        b"\xff\xd8" + b"\xff\x00" * 2_000_000,
    ],
    ids=lambda content: f"{content[:12]!r} {len(content)}",
)
def test_without_a_frame_there_is_none(content: bytes) -> None:
    with pytest.raises(JpegError):
        read_frame(content)


def test_real_photographs_keep_their_pixels(shared_data: Path) -> None:
    paths = sorted((shared_data / "photos").glob("*.jpg"))
    assert len(paths) == 8
    for path in paths:
        jpg = path.read_bytes()
        for before, after in zip(decodings(jpg), decodings(strip_metadata(jpg)), strict=True):
            assert np.array_equal(before, after)
