"""Color profiles: wide ones are converted to sRGB, sRGB under any name is left alone, damage is no reason to stop."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from umbel.data.color import is_srgb, to_srgb
from umbel.data.photograph import SizeBound, convert_photograph

Profile = Callable[..., bytes]
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


def to_linear(levels: np.ndarray) -> np.ndarray:
    """sRGB's curve: levels from 0 to 1 to amounts of light."""
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def from_linear(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def profile_of(kind: bytes, space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2.1, from its tags."""
    body, table, offset = b"", struct.pack(">I", len(tags)), 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = struct.pack(">I", offset + len(body))
    head = size + bytes(4) + struct.pack(">I", 0x02100000) + kind + space
    head = head.ljust(36, b"\0") + b"acsp"
    illuminant = struct.pack(">3i", 63190, 65536, 54061)
    return (head.ljust(68, b"\0") + illuminant).ljust(128, b"\0") + table + body


def rgb_profile(primaries: tuple[tuple[float, ...], ...]) -> bytes:
    """A profile of three primaries (XYZ under D50) and sRGB's curve."""

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    curve = (to_linear(np.linspace(0, 1, 1024)) * 65535).round().astype(">u2").tobytes()
    curve = b"curv\0\0\0\0" + struct.pack(">I", 1024) + curve
    tags = {b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    tags |= {name + b"XYZ": xyz(values) for name, values in zip((b"r", b"g", b"b"), primaries, strict=True)}
    tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    return profile_of(b"mntr", b"RGB XYZ ".ljust(8), tags)


def red_ink_profile() -> bytes:
    """A profile of CMYK by which every mixture of inks is the same red (Lab 53, 80, 67), and black is black."""
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    table = bytes((135, 208, 195, 0, 128, 128)) * 8  # black is the channel that changes fastest
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + ramp * 4 + table + ramp * 3
    return profile_of(b"prtr", b"CMYKLab ", {b"A2B0": lut})


def noise(mode: str = "RGB") -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (24, 24, len(mode)), dtype=np.uint8)
    return Image.fromarray(levels, mode) if mode == "CMYK" else Image.fromarray(levels)


def test_a_wide_profile_is_converted_as_the_slow_way_does() -> None:
    image = noise()
    found = np.asarray(to_srgb(image, rgb_profile(P3))).astype(int)
    light = to_linear(np.asarray(image) / 255) @ np.array(P3) @ np.linalg.inv(np.array(SRGB))
    expected = (from_linear(light) * 255).round().astype(int)
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - np.asarray(image).astype(int)).max() > 20
    assert not is_srgb(rgb_profile(P3))


def test_srgb_under_another_name_changes_nothing() -> None:
    image = noise()
    for profile in (rgb_profile(SRGB), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        assert is_srgb(profile)
        assert to_srgb(image, profile) is image


def test_without_a_profile_it_is_srgb() -> None:
    image = noise()
    for profile in (None, b""):
        assert is_srgb(profile)
        assert to_srgb(image, profile) is image


def test_inks_become_the_colors_that_their_profile_tells() -> None:
    inks = np.random.default_rng(0).integers(0, 256, (24, 24, 4), dtype=np.uint8)
    inks[..., 3] = np.arange(24) // 12 * 255  # no black in the left half, nothing but it in the right one
    found = np.asarray(to_srgb(Image.fromarray(inks, "CMYK"), red_ink_profile())).astype(int)
    assert np.abs(found[:, :12] - [255, 0, 0]).max() < 12
    assert found[:, 12:].max() < 12


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_profile_of_another_mode_is_passed_over(mode: str) -> None:
    image = noise(mode)
    assert to_srgb(image, rgb_profile(P3) if mode == "CMYK" else red_ink_profile()) is image


def test_damaged_profiles_are_passed_over_or_followed_and_nothing_else() -> None:
    image, whole, dice = noise(), rgb_profile(P3), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in dice.integers(0, 400, dice.integers(1, 5)):
            damaged[place] = dice.integers(256)
        cut = damaged[: dice.integers(len(whole))] if dice.random() < 0.2 else damaged
        found = to_srgb(image, bytes(cut))
        assert (found.mode, found.size) == ("RGB", image.size)


def test_the_probe_leaves_no_trace_on_the_image() -> None:
    buffer = io.BytesIO()
    to_srgb(noise(), rgb_profile(P3)).save(buffer, "PNG")
    assert np.asarray(Image.open(io.BytesIO(buffer.getvalue()))).shape == (24, 24, 3)


def encoded(image: Image.Image, profile: bytes) -> bytes:
    buffer = io.BytesIO()
    image.resize((64, 64), Image.Resampling.NEAREST).save(buffer, "JPEG", quality=98, icc_profile=profile)
    return buffer.getvalue()


def stored(jpg: bytes) -> np.ndarray:
    converted = convert_photograph(jpg, bound=SizeBound(shorter=64), quality=98)
    assert b"ICC_PROFILE" not in converted.jpg
    return np.asarray(Image.open(io.BytesIO(converted.jpg))).astype(int)


def test_a_jpeg_of_wide_colors_is_not_kept_but_converted() -> None:
    green = Image.new("RGB", (24, 24), (60, 160, 60))
    found = stored(encoded(green, rgb_profile(P3)))
    expected = np.asarray(to_srgb(green, rgb_profile(P3))).astype(int)[0, 0]
    assert np.abs(expected - [60, 160, 60]).max() > 20
    assert np.abs(found - expected).max() <= 3


def test_a_jpeg_of_srgb_is_kept_without_its_profile() -> None:
    jpg = encoded(noise(), rgb_profile(SRGB))
    assert np.array_equal(stored(jpg), np.asarray(Image.open(io.BytesIO(jpg))).astype(int))


def test_inks_of_a_jpeg_follow_their_profile() -> None:
    assert (
        np.abs(stored(encoded(Image.new("CMYK", (24, 24), (128, 128, 128, 0)), red_ink_profile())) - [255, 0, 0]).max()
        < 12
    )
