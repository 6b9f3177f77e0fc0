"""Any photograph file becomes an upright RGB JPEG of bounded size, or is called bad in words."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umbel.data.photograph import (
    BadPhotographError,
    SizeBound,
    encode_photograph,
    find_photographs,
    read_photograph,
)

Picture = Callable[..., Image.Image]


def pixels(path: Path) -> np.ndarray:
    image = read_photograph(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def reason(path: Path) -> str | None:
    """Why a photograph is called bad; None if it is read."""
    try:
        read_photograph(path)
    except BadPhotographError as error:
        return str(error)
    return None


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    """The upper left quarter is red when the photograph stands upright, however the sensor wrote it."""
    upright = Image.new("RGB", (32, 16), "blue")
    upright.paste("red", (0, 0, 16, 8))
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(saved(stored, tmp_path / "a.png", exif=exif))
    assert found.shape == (16, 32, 3)
    assert found[4, 8].tolist() == [255, 0, 0]
    assert found[12, 24].tolist() == [0, 0, 255]


def test_cmyk_keeps_its_colors(tmp_path: Path) -> None:
    red = Image.new("RGB", (32, 32), (200, 30, 40)).convert("CMYK")
    found = pixels(saved(red, tmp_path / "a.jpg"))
    assert np.abs(found - [200, 30, 40]).max() < 12


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    found = pixels(saved(Image.linear_gradient("L"), tmp_path / "a.png"))
    assert (found == found[..., :1]).all()
    assert (found.min(), found.max()) == (0, 255)


def test_one_bit_images_are_black_and_white(tmp_path: Path) -> None:
    assert np.unique(pixels(saved(Image.linear_gradient("L").convert("1"), tmp_path / "a.png"))).tolist() == [0, 255]


@pytest.mark.parametrize("top", [1023, 4095, 65535])
def test_sixteen_bits_are_stretched_not_clipped(top: int, tmp_path: Path) -> None:
    levels = np.linspace(0, top, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = pixels(saved(Image.fromarray(levels), tmp_path / "a.png"))
    assert (found.min(), found.max()) == (0, 255)
    assert 120 < found.mean() < 135


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_becomes_white(mode: str, tmp_path: Path) -> None:
    image = Image.new(mode, (8, 8), (0,) * len(mode))
    found = pixels(saved(image, tmp_path / "a.png"))
    assert (found == 255).all()


def test_half_transparent_is_blended(tmp_path: Path) -> None:
    found = pixels(saved(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), tmp_path / "a.png"))
    assert (found == 127).all()


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palettes_transparent_color_becomes_white(suffix: str, tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 200, 10, 200, 10, 10])
    image.paste(1, (4, 0, 8, 8))
    found = pixels(saved(image, tmp_path / f"a.{suffix}", transparency=0))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, 7].tolist() == [200, 10, 10]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_formats_of_cameras_and_phones_are_read(suffix: str, picture: Picture, tmp_path: Path) -> None:
    image = picture(1, width=64, height=48)
    found = pixels(saved(image, tmp_path / f"a.{suffix}"))
    assert found.shape == (48, 64, 3)
    assert np.abs(found - np.asarray(image).astype(int)).mean() < 12


def test_the_suffix_may_lie_about_the_format(picture: Picture, tmp_path: Path) -> None:
    saved(picture(1), tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert pixels(tmp_path / "a.jpg").shape == (36, 48, 3)


@pytest.mark.parametrize("content", [b"", b"not a photograph\n", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
def test_what_is_no_photograph_is_called_so(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadPhotographError) as caught:
        read_photograph(tmp_path / "a.jpg")
    assert str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_truncated_jpeg_is_called_so(jpeg: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1, width=300, height=200)[:-200])
    with pytest.raises(BadPhotographError, match="truncated"):
        read_photograph(tmp_path / "a.jpg")


FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "JPEG2000", "AVIF")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_no_damage_ends_in_anything_but_a_bad_photograph(format: str, picture: Picture, tmp_path: Path) -> None:
    """Bytes are flipped, cut and overwritten; a reader may cope, or call the photograph bad, and nothing else."""
    buffer, dice, file = io.BytesIO(), random.Random(0), tmp_path / "a.img"
    picture(3, width=40, height=30).save(buffer, format)
    whole = buffer.getvalue()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 1, 4, 16))):
            damaged[dice.randrange(min(len(damaged), dice.choice((24, 200, len(damaged)))))] = dice.choice(
                (0, 255, dice.randrange(256))
            )
        if dice.random() < 0.3:
            del damaged[dice.randrange(len(damaged)) :]
        file.write_bytes(damaged)
        assert reason(file) != ""


def test_damaged_camera_data_ends_in_nothing_but_a_bad_photograph(picture: Picture, tmp_path: Path) -> None:
    exif, buffer, file = Image.Exif(), io.BytesIO(), tmp_path / "a.jpg"
    exif[0x0112], exif[0x010F], exif[0x8825] = 6, "Maker", {1: "N", 2: (1.0, 2.0, 3.0)}
    picture(3).save(buffer, "JPEG", exif=exif)
    whole = buffer.getvalue()
    first = whole.index(b"Exif")
    for place in range(first, first + 200):
        for value in (0, 1, 2, 7, 255):
            file.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            assert reason(file) != ""


def test_a_bomb_is_refused_before_it_is_decoded(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(BadPhotographError, match="pixels"):
        read_photograph(saved(picture(1), tmp_path / "a.png"))


def test_a_photograph_of_ninety_million_pixels_is_not_refused_as_one_of_more_than_178_million(tmp_path: Path) -> None:
    path = saved(Image.new("1", (9_500, 9_500)), tmp_path / "panorama.png")
    assert "178,956,970" not in (reason(path) or "")


def decoded(jpg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpg))
    image.load()
    return image


@pytest.mark.parametrize(
    ("size", "expected"), [((400, 300), (133, 100)), ((300, 400), (100, 133)), ((1000, 100), (1000, 100))]
)
def test_the_shorter_side_is_shrunk(size: tuple[int, int], expected: tuple[int, int], picture: Picture) -> None:
    jpg = encode_photograph(picture(1, width=size[0], height=size[1]), bound=SizeBound(shorter=100), quality=90)
    assert decoded(jpg).size == expected


@pytest.mark.parametrize("size", [(99, 300), (1, 1), (100, 100)])
def test_shrinking_never_enlarges(size: tuple[int, int], picture: Picture) -> None:
    assert decoded(
        encode_photograph(picture(1, width=size[0], height=size[1]), bound=SizeBound(shorter=100), quality=90)
    ).size == (size)


def test_metadata_is_left_behind(picture: Picture, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8825] = 6, "Maker", {1: "N"}
    path = saved(picture(1), tmp_path / "a.jpg", exif=exif)
    jpg = encode_photograph(read_photograph(path), bound=SizeBound(shorter=100), quality=90)
    assert dict(decoded(jpg).getexif()) == {}
    assert b"Maker" not in jpg


def test_real_photographs_are_read_upright(shared_data: Path) -> None:
    for path in find_photographs(shared_data / "photos"):
        jpg = encode_photograph(read_photograph(path), bound=SizeBound(shorter=384), quality=90)
        assert min(decoded(jpg).size) <= 384
