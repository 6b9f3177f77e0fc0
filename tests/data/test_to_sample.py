"""What a photograph file becomes in a shard: kept byte for byte where it may be, converted where it must be, or bad."""

import io
import json
import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umbel.data.convert import Sample
from umbel.data.decode import decode
from umbel.data.photograph import (
    BadPhotographError,
    SizeBound,
    convert_photograph,
    find_photographs,
    keep_jpeg,
    read_photograph,
)
from umbel.data.photograph_set import Photograph
from umbel.data.to_sample import PhotographToSample

Picture = Callable[..., Image.Image]
BOUND = SizeBound(shorter=36)


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(jpg: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(jpg))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return np.asarray(image).astype(int)


def stored(content: bytes, bound: SizeBound = BOUND, quality: int = 95) -> np.ndarray:
    """The pixels of what goes into the shard, which must carry nothing but them."""
    jpg = convert_photograph(content, bound=bound, quality=quality).jpg
    assert not any(word in jpg for word in (b"Exif", b"ICC_PROFILE", b"http://", b"SECRET"))
    return pixels(jpg)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 2},
        {"restart_marker_blocks": 2},
        {"keep_rgb": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("bound", [SizeBound(shorter=36), SizeBound(shorter=100), SizeBound(longer=48)], ids=str)
def test_a_jpeg_within_the_bound_keeps_its_bytes(options: dict[str, Any], bound: SizeBound, picture: Picture) -> None:
    bare = encoded(picture(1), quality=77, **options)
    told = encoded(picture(1), quality=77, comment=b"SECRET", xmp=b"<x>SECRET</x>", exif=Image.Exif(), **options)
    for content in (bare, told, told + b"SECRET"):
        converted = convert_photograph(content, bound=bound, quality=10)
        assert converted.jpg == bare
        assert converted.original_size == (48, 36)
        assert np.array_equal(pixels(converted.jpg), pixels(content))


@pytest.mark.parametrize("bound", [SizeBound(shorter=35), SizeBound(longer=47)], ids=str)
def test_a_larger_one_is_shrunk(bound: SizeBound, picture: Picture) -> None:
    content = encoded(picture(1), comment=b"SECRET")
    assert keep_jpeg(content, bound) is None
    assert stored(content, bound).shape == (35, 47, 3)
    assert convert_photograph(content, bound=bound, quality=90).original_size == (48, 36)


def test_either_side_may_be_bounded() -> None:
    assert SizeBound(shorter=100).of(400, 300) == (133, 100)
    assert SizeBound(longer=100).of(400, 300) == (100, 75)
    assert SizeBound(longer=100).of(300, 400) == (75, 100)
    assert SizeBound(longer=100).of(100, 7) == (100, 7)
    assert SizeBound(shorter=100).of(3000, 99) == (3000, 99)
    assert SizeBound(longer=10).of(3000, 1) == (10, 1)


@pytest.mark.parametrize("orientation", range(10))
def test_one_that_lies_on_its_side_is_turned_and_others_are_kept(orientation: int, picture: Picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture(1), quality=95, exif=exif)
    upright = np.asarray(read_photograph(content)).astype(int)
    kept = keep_jpeg(content, BOUND) is not None
    assert kept == (orientation not in range(2, 9))
    assert np.abs(stored(content) - upright).mean() < 2
    assert upright.shape == ((48, 36, 3) if orientation in range(5, 9) else (36, 48, 3))


def test_orientation_told_by_xmp_alone_is_followed(picture: Picture) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    assert stored(encoded(picture(1), xmp=xmp)).shape == (48, 36, 3)


def adobe_inverted(image: Image.Image) -> bytes:
    """CMYK as Adobe's programs write it: 255 is no ink (so does Pillow), with their segment."""
    jpg = encoded(image.convert("CMYK"), quality=98)
    assert b"Adobe" in jpg
    return jpg


CONVERTED: dict[str, Callable[[Image.Image], bytes]] = {
    "grey": lambda image: encoded(image.convert("L")),
    "grey PNG": lambda image: encoded(image.convert("L"), "PNG"),
    "CMYK": adobe_inverted,
    "palette": lambda image: encoded(image.quantize(64), "PNG"),
    "palette GIF": lambda image: encoded(image.quantize(64), "GIF"),
    "16 bits grey": lambda image: encoded(
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG"
    ),
    "transparent": lambda image: encoded(image.convert("RGBA"), "PNG"),
    "WebP": lambda image: encoded(image, "WEBP", quality=95),
    "TIFF": lambda image: encoded(image, "TIFF"),
    "AVIF": lambda image: encoded(image, "AVIF", quality=95),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_what_is_no_rgb_jpeg_is_converted(kind: str, picture: Picture) -> None:
    image = picture(1, width=64, height=48)
    content = CONVERTED[kind](image)
    assert keep_jpeg(content, SizeBound(shorter=48)) is None
    expected = np.asarray(image.convert("L").convert("RGB") if "grey" in kind else image).astype(int)
    if kind == "16 bits grey":
        expected = ((expected - expected.min()) * (255 / np.ptp(expected))).round().astype(int)
    assert np.abs(stored(content, SizeBound(shorter=48)) - expected).mean() < 8


def test_sixteen_bits_of_three_channels_keep_their_colors() -> None:
    colors = np.zeros((16, 16, 3), dtype=">u2")
    colors[:] = np.array([200, 100, 50]) * 257
    content = png_of_16_bits(colors)
    assert np.abs(stored(content) - [200, 100, 50]).max() <= 3


def png_of_16_bits(colors: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""
    import zlib

    height, width, _ = colors.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in colors)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def claims(width: int, height: int, jpg: bytes) -> bytes:
    """A JPEG whose header claims another size."""
    place = jpg.index(b"\xff\xc0") if b"\xff\xc0" in jpg else jpg.index(b"\xff\xc2")
    return jpg[: place + 5] + struct.pack(">HH", height, width) + jpg[place + 9 :]


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("size", [(60_000, 60_000), (65_535, 2_731)], ids=str)
def test_bombs_are_refused_by_their_header(size: tuple[int, int], options: dict[str, Any], picture: Picture) -> None:
    bomb = claims(*size, encoded(picture(1), **options))
    with pytest.raises(BadPhotographError, match="more than 178,956,970 pixels"):
        decode(bomb, canvas=64)
    with pytest.raises(BadPhotographError, match="more than 178,956,970 pixels"):
        convert_photograph(bomb, bound=BOUND, quality=90)
    with pytest.raises(BadPhotographError, match="more than 178,956,970 pixels"):
        convert_photograph(bomb, bound=SizeBound(shorter=65_535), quality=90)


def test_bombs_of_other_formats_are_refused_whatever_pillow_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    content = png_of_16_bits(np.zeros((1, 1, 3)))
    bomb = content[:16] + struct.pack(">II", 20_000, 20_000) + content[24:]
    with pytest.raises(BadPhotographError):
        convert_photograph(bomb, bound=BOUND, quality=90)
    with pytest.raises(BadPhotographError, match="more than 178,956,970 pixels"):
        convert_photograph(encoded(Image.new("1", (20_000, 20_000)), "PNG"), bound=BOUND, quality=90)


def test_thousands_of_passes_over_many_pixels_are_refused() -> None:
    """A progressive JPEG of 150 kB that would take minutes: its last scan, repeated."""
    jpg = encoded(Image.new("RGB", (2_000, 2_000)), progressive=True)
    last = jpg.rindex(b"\xff\xda")
    bomb = jpg[:last] + jpg[last:-2] * 600 + jpg[-2:]
    for read in (lambda: decode(bomb, canvas=64), lambda: convert_photograph(bomb, bound=BOUND, quality=90)):
        with pytest.raises(BadPhotographError, match=r"6\d\d scans of 2000 x 2000 pixels"):
            read()


def test_many_passes_over_few_pixels_are_none_of_a_bomb(picture: Picture) -> None:
    jpg = encoded(picture(1), progressive=True)
    last = jpg.rindex(b"\xff\xda")
    assert decode(jpg[:last] + jpg[last:-2] * 20 + jpg[-2:], canvas=64).shape == (3, 36, 48)


def sample_of(path: Path, **settings: Any) -> Sample | str:
    photograph = Photograph(path=str(path), **({"key": "key", "label": 4, "class_name": "rosa"} | settings))
    return PhotographToSample(bound=SizeBound(shorter=24), quality=90)(photograph)


def test_a_sample_tells_where_it_came_from(picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(1), "PNG"))
    sample = sample_of(tmp_path / "a.png", metadata={"organ": "leaf"})
    assert isinstance(sample, Sample)
    assert pixels(sample.jpg).shape == (24, 32, 3)
    assert (sample.key, sample.label) == ("key", 4)
    assert sample.metadata == {
        "source": "a.png",
        "original_size": [48, 36],
        "class_name": "rosa",
        "label": 4,
        "organ": "leaf",
    }


def test_a_photograph_out_of_an_archive_is_its_bytes(picture: Picture) -> None:
    sample = sample_of(Path("train/x/a.png"), content=encoded(picture(1), "PNG"), label=None, class_name=None)
    assert isinstance(sample, Sample)
    assert sample.metadata == {"source": "a.png", "original_size": [48, 36]}
    assert sample_of(Path("a.png"), content="it is not there") == "it is not there"


def test_a_bad_photograph_gives_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    assert sample_of(tmp_path / "a.jpg") == "it is not an image"
    assert sample_of(tmp_path / "b.jpg") == "it cannot be read (No such file or directory)"
    assert sample_of(tmp_path) == "it cannot be read (Is a directory)"


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.tif").open("wb") as file:
        file.truncate((1 << 30) + 1)
    assert sample_of(tmp_path / "a.tif") == "its file is larger than 1 GiB"


def test_a_strip_longer_than_jpeg_can_hold_is_a_bad_photograph(tmp_path: Path) -> None:
    Image.new("RGB", (66_000, 4)).save(tmp_path / "strip.png")
    assert "do not go into a JPEG" in str(sample_of(tmp_path / "strip.png"))


def mutants(count: int) -> list[bytes]:
    """JPEGs of several kinds with bytes flipped, cut, doubled and shuffled, from a fixed generator."""
    dice = random.Random(2021)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    wholes = [
        encoded(noise, **options)
        for options in (
            {},
            {"progressive": True},
            {"subsampling": 0, "exif": exif},
            {"restart_marker_blocks": 2, "comment": b"a comment"},
            {"keep_rgb": True, "optimize": True},
        )
    ]
    wholes += [encoded(noise.convert("L")), encoded(noise.convert("CMYK"))]
    found = []
    for number in range(count):
        jpg = bytearray(wholes[number % len(wholes)])
        for _ in range(dice.choice((1, 1, 2, 8))):
            first = dice.randrange(min(len(jpg), dice.choice((30, 700, len(jpg)))))
            match dice.choice(("flip", "set", "cut", "drop", "double", "marker")):
                case "flip":
                    jpg[first] ^= 1 << dice.randrange(8)
                case "set":
                    jpg[first] = dice.choice((0, 255, dice.randrange(256)))
                case "cut":
                    del jpg[max(first, 2) :]
                case "drop":
                    del jpg[first : first + dice.randrange(1, 40)]
                case "double":
                    jpg[first:first] = jpg[first : first + dice.randrange(1, 200)]
                case "marker":
                    jpg[first : first + 2] = bytes((255, dice.randrange(0xC0, 0x100)))
            jpg = jpg or bytearray(b"\xff")
        found.append(bytes(jpg))
    return found


def count_mutants(count: int) -> dict[str, int]:
    """What becomes of mutants in conversion and in `decode`."""
    counts: Counter[str] = Counter()
    for number, jpg in enumerate(mutants(count)):
        bound = SizeBound(shorter=32 + 16 * (number % 2))
        sample = PhotographToSample(bound=bound, quality=90)(Photograph(path="a.jpg", key="k", content=jpg))
        if isinstance(sample, str):
            assert sample.strip()
            assert "\n" not in sample
            counts["not converted"] += 1
        else:
            counts["kept" if keep_jpeg(jpg, bound) else "converted"] += 1
            # What is stored must come out again.
            assert max(decode(sample.jpg, canvas=64).shape[1:]) <= 64
        try:
            counts["decoded"] += max(decode(jpg, canvas=64).shape[1:]) <= 64
        except BadPhotographError:
            counts["not decoded"] += 1
    return dict(counts)


def test_two_thousand_mutants_neither_crash_nor_hang_and_each_is_counted() -> None:
    """In a process of its own, since a decoder that crashes takes its process along."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_to_sample as t; "
        "import json; print(json.dumps(t.count_mutants(2000)))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["not converted"] + counts["kept"] + counts["converted"] == 2000
    assert counts["decoded"] + counts["not decoded"] == 2000
    assert min(counts.values()) > 200, counts


def test_the_command_counts_every_mutant(tmp_path: Path, umbel: Callable[..., Any]) -> None:
    """Each is written or named; what is written passes `shards check`."""
    folder = tmp_path / "mutants"
    folder.mkdir()
    for number, jpg in enumerate(mutants(2000)):
        (folder / f"{number:04d}.jpg").write_bytes(jpg)
    out = tmp_path / "out"
    code, said, _ = umbel("shards", "make", "folder", folder, "--out", out, "--max-bad", 1, "--workers", 2)
    assert code == 0
    bad = json.loads((out / "bad.json").read_text())
    assert all(reason.strip() for reason in bad.values())
    assert 500 < len(bad) < 1500
    assert f"train 2000 photographs, {len(bad)} left out" in said
    assert f"{2000 - len(bad)} samples" in umbel("shards", "check", out).out


def test_real_photographs_are_kept_or_shrunk(shared_data: Path) -> None:
    paths = find_photographs(shared_data / "photos")
    assert len(paths) == 8
    for path in paths:
        content = path.read_bytes()
        assert np.array_equal(stored(content, SizeBound(shorter=2000)), pixels(content))
        assert min(stored(content).shape[:2]) == 36
