"""Operations that move or cover pixels equal torchvision's, and a slow reference where torchvision has none."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from umbel.augment.geometric import Affine, Erasing, HorizontalFlip, Rotation, VerticalFlip
from umbel.augment.operation import Operation

Pictures = Callable[..., Tensor]
Uniforms = Callable[..., np.ndarray]
MODES = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}


def angle_and_shift(u: np.ndarray, side: int) -> tuple[float, list[int]]:
    """Of the plant configuration from their uniforms."""
    return float(-10 + 20 * u[0]), [round((-0.1 + 0.2 * float(r)) * side) for r in u[1:]]


def places(index: int, size: int, padding: str) -> int | None:
    """The pixel that stands for one outside the image."""
    if 0 <= index < size:
        return index
    if padding == "zeros":
        return None
    if padding == "border":
        return min(max(index, 0), size - 1)
    index = abs(index) % (2 * size - 2)
    return index if index < size else 2 * size - 2 - index


def moved(image: np.ndarray, angle: float, shift: list[int], resample: str, padding: str) -> np.ndarray:
    """(3, S, S), rotated clockwise about its center, then shifted: pixel by pixel in float64."""
    side = image.shape[1]
    center, out, a = (side - 1) / 2, np.zeros_like(image), math.radians(angle)
    for y in range(side):
        for x in range(side):
            dx, dy = x - center - shift[0], y - center - shift[1]
            column = center + math.cos(a) * dx + math.sin(a) * dy
            row = center - math.sin(a) * dx + math.cos(a) * dy
            if resample == "nearest":
                corners = [(round(row), round(column), 1.0)]
            else:
                top, left = math.floor(row), math.floor(column)
                down, across = row - top, column - left
                corners = [(top, left, (1 - down) * (1 - across)), (top, left + 1, (1 - down) * across)]
                corners += [(top + 1, left, down * (1 - across)), (top + 1, left + 1, down * across)]
            for r, c, weight in corners:
                place = places(r, side, padding), places(c, side, padding)
                if place[0] is not None and place[1] is not None:
                    out[:, y, x] += weight * image[:, place[0], place[1]]
    return out


# --- Affine


@pytest.mark.parametrize("side", [32, 96, 33])
def test_affine_equals_torchvisions_nearest_with_zeros(side: int, pictures: Pictures, uniforms: Uniforms) -> None:
    images, u = pictures(60, side) * 0.9 + 0.1, uniforms(60, 3)
    out = Affine().apply(images.clone(), u)
    differing = []
    for image, row, found in zip(images, u, out, strict=True):
        angle, shift = angle_and_shift(row, side)
        expected = TF.affine(
            image, angle=angle, translate=shift, scale=1.0, shear=[0.0, 0.0],
            interpolation=InterpolationMode.NEAREST, fill=0,
        )  # fmt: skip
        differing.append(float((found != expected).any(0).float().mean()))
    # A pixel whose source lies halfway between two, to float32's rounding, may take either.
    assert max(differing) < 0.005
    assert np.mean(differing) < 0.0005


def test_affine_equals_torchvisions_bilinear_with_zeros(pictures: Pictures, uniforms: Uniforms) -> None:
    images, u = pictures(20, 33), uniforms(20, 3)
    out = Affine(resample="bilinear").apply(images.clone(), u)
    for image, row, found in zip(images, u, out, strict=True):
        angle, shift = angle_and_shift(row, 33)
        expected = TF.affine(
            image, angle=angle, translate=shift, scale=1.0, shear=[0.0, 0.0], interpolation=InterpolationMode.BILINEAR
        )
        # Places differ by float32's rounding, some 1e-5 of a pixel, and neighbors by up to 1.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("resample", ["nearest", "bilinear"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_affine_equals_the_slow_reference(resample: Any, padding: Any, pictures: Pictures, uniforms: Uniforms) -> None:
    side, images, u = 21, pictures(6, 21) * 0.9 + 0.1, uniforms(6, 3)
    u[:2, 1:] = [[0.0, 0.999], [0.999, 0.0]]  # as far as it goes, to opposite corners
    out = Affine(resample=resample, padding_mode=padding).apply(images.clone(), u)
    for image, row, found in zip(images.double().numpy(), u, out.double().numpy(), strict=True):
        expected = moved(image, *angle_and_shift(row, side), resample, padding)
        # Nearest: a pixel whose source lies halfway between two, to float32's rounding, may take either.
        far = (np.abs(found - expected) > 1e-4).any(0).mean()
        assert far < (0.01 if resample == "nearest" else 1e-9)


@pytest.mark.parametrize("padding", ["border", "reflection"])
def test_without_zeros_no_black_comes_in(padding: Any, pictures: Pictures, uniforms: Uniforms) -> None:
    images = pictures(20, 32) * 0.9 + 0.1
    assert (Affine(padding_mode=padding).apply(images.clone(), uniforms(20, 3)) >= 0.1 - 1e-6).all()


def test_affine_moves_pixels_and_makes_none(pictures: Pictures, uniforms: Uniforms) -> None:
    images = pictures(20, 32) * 0.9 + 0.1
    out = Affine().apply(images.clone(), uniforms(20, 3))
    for image, found in zip(images, out, strict=True):
        colors = {tuple(c) for c in image.flatten(1).T.tolist()} | {(0.0, 0.0, 0.0)}
        assert {tuple(c) for c in found.flatten(1).T.tolist()} <= colors
    assert (out == 0).all(1).any()


def test_rotation_and_translation_are_uniform_in_their_ranges(uniforms: Uniforms) -> None:
    # Channels hold each pixel's own column and row, so the result tells where every pixel came from.
    side, n = 120, 300
    place = torch.stack(
        [*torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), torch.ones(side, side)]
    )
    out = (Affine().apply((place / 100).expand(n, 3, side, side).clone(), uniforms(n, 3)) * 100).double()
    center, angles, shifts = (side - 1) / 2, [], []
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    for image in out.numpy():
        seen = image[2] > 0.5
        target = np.stack([x[seen] - center, y[seen] - center, np.ones(seen.sum())], axis=1)
        source = np.stack([image[0][seen] - center, image[1][seen] - center], axis=1)
        (a, b), (c, d), offset = np.linalg.lstsq(target, source, rcond=None)[0]
        # Rigid: no scale, no shear.
        assert math.hypot(a, b) == pytest.approx(1, abs=0.01)
        assert (a, c) == (pytest.approx(d, abs=0.01), pytest.approx(-b, abs=0.01))
        angles.append(math.degrees(math.atan2(b, a)))
        shifts.append(-np.linalg.solve(np.array([[a, c], [b, d]]), offset))
    assert np.abs(angles).max() < 10.1
    assert stats.kstest(angles, stats.uniform(-10, 20).cdf).pvalue > 0.01
    # Whole pixels, of 120 * 0.1 = 12 at most.
    found = np.concatenate(shifts)
    assert np.abs(found - found.round()).max() < 0.1
    assert np.abs(found.round()).max() == 12
    assert stats.kstest(found, stats.uniform(-12, 24).cdf).pvalue > 0.01


def test_width_and_height_have_a_reach_of_their_own(uniforms: Uniforms) -> None:
    affine = Affine(degrees=(20.0, 30.0), translate=(0.5, 0.0))
    found = affine.parameters(uniforms(500, 3), 10, 40)
    across, down = found["translations"].T
    assert (across.min(), across.max()) == (-20, 20)
    assert not down.any()
    assert 20 <= found["angle"].min() < 20.2
    assert 29.8 < found["angle"].max() < 30


# --- Rotation, flips, erasing


@pytest.mark.parametrize("resample", ["nearest", "bilinear"])
def test_rotation_equals_torchvisions(resample: Any, pictures: Pictures, uniforms: Uniforms) -> None:
    images, u = pictures(20, 33), uniforms(20, 1)
    out = Rotation(degrees=45.0, resample=resample).apply(images.clone(), u)
    for image, row, found in zip(images, u, out, strict=True):
        expected = TF.rotate(image, -45 + 90 * float(row[0]), interpolation=MODES[resample])
        # As for the affine: halfway pixels may fall to either side, and places differ by some 1e-5 of a pixel.
        assert ((found - expected).abs() > 1e-4).any(0).float().mean() < (0.005 if resample == "nearest" else 1e-9)


def test_flips_mirror(pictures: Pictures) -> None:
    images, none = pictures(3), np.empty((3, 0))
    assert torch.equal(HorizontalFlip().apply(images.clone(), none), images.flip(3))
    assert torch.equal(VerticalFlip().apply(images.clone(), none), images.flip(2))


def test_erasing_equals_torchvisions_erase(pictures: Pictures, uniforms: Uniforms) -> None:
    images, u = pictures(40, 20), uniforms(40, 4)
    erasing = Erasing(value=0.25)
    found = erasing.parameters(u, 20, 20)
    out = erasing.apply(images.clone(), u)
    for i, image in enumerate(images):
        left, top, width, height = (int(found[name][i]) for name in ("xs", "ys", "widths", "heights"))
        assert torch.equal(out[i], TF.erase(image, top, left, height, width, torch.tensor(0.25)))


def test_area_and_shape_of_what_is_erased_are_as_stated(uniforms: Uniforms) -> None:
    found = Erasing().parameters(uniforms(3000, 4), 1000, 1000)
    area = found["widths"] * found["heights"] / 1000**2
    # A rectangle of up to a third of the image and of shape 3.3 may be higher than the image, and is cut.
    whole = (found["heights"] < 1000) & (found["widths"] < 1000)
    assert whole.mean() > 0.98
    assert stats.kstest(area[whole & (area < 0.3)], stats.uniform(0.02, 0.28).cdf).pvalue > 0.01
    shape, low, high = np.log(found["heights"] / found["widths"]), math.log(0.3), math.log(3.3)
    assert stats.kstest(shape[area < 0.3], stats.uniform(low, high - low).cdf).pvalue > 0.01
    free = np.maximum(1000 - found["widths"], 1)
    assert stats.kstest((found["xs"] / free)[free > 100], stats.uniform(0, 1).cdf).pvalue > 0.01
    assert (found["xs"] + found["widths"] <= 1000).all()
    assert (found["ys"] + found["heights"] <= 1000).all()


def test_erasing_covers_a_pixel_at_least_and_the_image_at_most(uniforms: Uniforms) -> None:
    u = uniforms(200, 4)
    least, most = (Erasing(scale=(s, s)).parameters(u, 8, 8) for s in (0.0, 1.0))
    assert (least["widths"] * least["heights"] >= 1).all()
    assert (most["widths"] <= 8).all()
    assert (most["heights"] <= 8).all()


# --- All of them


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (Affine(degrees=(3.0, 11.0), translate=(0.2, 0.1)), "affine 7.0° 10,-2 px"),
        (Rotation(degrees=(-20.0, 0.0)), "rotation -5.0°"),
        (HorizontalFlip(), "mirrored"),
        (VerticalFlip(), "mirrored top to bottom"),
        (Erasing(scale=(0.25, 0.25), ratio=(1.0, 1.0)), "erasing 16x16 at 15,7"),
    ],
)
def test_what_is_done_is_told_in_words(operation: Operation, words: str) -> None:
    u = {3: [0.5, 0.999, 0.15], 1: [0.75], 0: [], 4: [0.5, 0.5, 0.9, 0.45]}[operation.draws]
    height = 26 if isinstance(operation, Affine) else 32
    found = operation.parameters(np.array([u]), height, 50 if isinstance(operation, Affine) else 32)
    assert operation.words({name: values[0] for name, values in found.items()}) == words


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (Affine, {"degrees": 200.0}, "degrees must be a range from -180 to 180, not -200 to 200"),
        (Affine, {"degrees": (5.0, -5.0)}, "degrees"),
        (Affine, {"translate": 1.5}, "translate must be a share of the side, 0 to 1, not 1.5"),
        (Affine, {"translate": (0.1, -0.1)}, "translate"),
        (Rotation, {"degrees": 400.0}, "degrees must be a range from -360 to 360, not -400 to 400"),
        (Erasing, {"scale": (0.1, 1.1)}, "scale must be a range from 0 to 1, not 0.1 to 1.1"),
        (Erasing, {"ratio": (0.0, 1.0)}, "ratio must be a range of at least 0.01, not 0 to 1"),
        (Erasing, {"value": 2.0}, "value must be a range from 0 to 1, not 2 to 2"),
    ],
)
def test_impossible_settings_are_refused(kind: type[Operation], values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        kind(**values)
