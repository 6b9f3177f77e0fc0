"""Operations on colors and sharpness equal torchvision's with the same parameters; how often, how much."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from umbel.augment.jitter import ColorJitter
from umbel.augment.operation import Operation
from umbel.augment.photometric import Equalize, GaussianBlur, Grayscale, Posterize, Sharpness, Solarize

Pictures = Callable[..., Tensor]
Uniforms = Callable[..., np.ndarray]


def ramp() -> Tensor:
    """(1, 3, 16, 16) uint8: every level once in each channel."""
    return torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)


def as_levels(images: Tensor) -> Tensor:
    return images.mul(255).round().to(torch.uint8)


# --- Posterize


@pytest.mark.parametrize(("bits", "u"), [(3, 0.0), (3, 0.333), (4, 0.334), (4, 0.666), (5, 0.667), (5, 0.999)])
def test_posterize_equals_torchvisions_on_every_level(bits: int, u: float) -> None:
    out = Posterize().apply(ramp().float() / 255, np.array([[u]]))
    torch.testing.assert_close(out, TF.posterize(ramp(), bits).float() / 255)
    assert out[0, 0].unique().numel() == 2**bits


def test_posterize_rounds_the_fractions_that_the_jitter_leaves(pictures: Pictures, uniforms: Uniforms) -> None:
    images = ColorJitter().apply(pictures(6), uniforms(6, 5))
    out = Posterize().apply(images.clone(), np.full((6, 1), 0.5))
    torch.testing.assert_close(out, TF.posterize(as_levels(images), 4).float() / 255)


def test_bits_are_a_third_each(uniforms: Uniforms) -> None:
    images = (ramp().float() / 255).expand(3000, 3, 16, 16)
    kept = [int(image[0].unique().numel()) for image in Posterize().apply(images, uniforms(3000, 1))]
    shares = [kept.count(2**bits) / 3000 for bits in (3, 4, 5)]
    # The deviation of a share of 3000 is 0.009.
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


def test_bits_reach_from_the_least_to_the_greatest() -> None:
    found = Posterize(bits=(1, 8)).parameters((np.arange(8)[:, None] + 0.5) / 8, 1, 1)["bits_factor"]
    assert found.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


# --- Grayscale


def test_grayscale_equals_torchvisions(pictures: Pictures) -> None:
    images = pictures(5)
    out = Grayscale().apply(images.clone(), np.empty((5, 0)))
    # Red counts 0.299 in Kornia and 0.2989 in torchvision.
    torch.testing.assert_close(out, TF.rgb_to_grayscale(images, 3), rtol=0, atol=2e-4)
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


# --- Gaussian blur


@pytest.mark.parametrize(("kernel", "sigma"), [(9, (0.1, 2.0)), (3, (1.0, 1.0)), (5, (0.5, 5.0))])
def test_blur_equals_torchvisions(
    kernel: int, sigma: tuple[float, float], pictures: Pictures, uniforms: Uniforms
) -> None:
    images, u = pictures(12, 24), uniforms(12, 1)
    blur = GaussianBlur(kernel_size=kernel, sigma=sigma)
    out = blur.apply(images.clone(), u)
    for image, row, found in zip(images, u, out, strict=True):
        own = float(sigma[0] + (sigma[1] - sigma[0]) * row[0])
        expected = TF.gaussian_blur(image, [kernel, kernel], [own, own])
        # The same weights in float32, summed by rows and columns here and over the square there.
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)


def test_a_blur_of_a_tenth_of_a_pixel_changes_nothing_and_of_two_much(pictures: Pictures) -> None:
    images = pictures(2, 24)
    torch.testing.assert_close(GaussianBlur().apply(images.clone(), np.zeros((2, 1))), images)
    blurred = GaussianBlur().apply(images.clone(), np.full((2, 1), 0.999))
    assert blurred.std() < images.std() / 2
    torch.testing.assert_close(blurred.mean(), images.mean(), rtol=0.05, atol=0)


def test_sigma_is_uniform_from_a_tenth_to_two_pixels(uniforms: Uniforms) -> None:
    sigma = GaussianBlur().parameters(uniforms(2000, 1), 1, 1)["sigma"]
    assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > 0.01
    assert sigma.min() >= 0.1
    assert sigma.max() < 2


# --- Solarize


@pytest.mark.parametrize("level", [0, 1, 77, 127, 128, 129, 254, 255])
def test_solarize_equals_torchvisions_on_every_level(level: int) -> None:
    solarize = Solarize(thresholds=(level / 255, level / 255))
    out = solarize.apply(ramp().float() / 255, np.array([[0.3]]))
    torch.testing.assert_close(out, TF.solarize(ramp(), level).float() / 255)


def test_solarize_inverts_from_128_on_however_levels_were_divided() -> None:
    images = ramp().float() / 255
    for shift in (-1e-6, 0, 1e-6):  # a GPU multiplies by 1 / 255, which is not the same number
        out = Solarize().apply((images + shift).clamp(0, 1), np.array([[0.5]]))
        assert torch.equal(as_levels(out), TF.solarize(ramp(), 128))


def test_thresholds_are_each_images_own() -> None:
    images = (ramp().float() / 255).repeat(3, 1, 1, 1)
    u = np.array([[0.0], [0.4], [0.999]])
    out = as_levels(Solarize(thresholds=(0.2, 0.8)).apply(images, u))
    for found, level in zip(out, [51, 112, 204], strict=True):
        assert torch.equal(found, TF.solarize(ramp(), level)[0])


# --- Sharpness and equalize


@pytest.mark.parametrize("reach", [0.5, (0.0, 3.0)])
def test_sharpness_equals_torchvisions(reach: Any, pictures: Pictures, uniforms: Uniforms) -> None:
    images, u = pictures(12), uniforms(12, 1)
    out = Sharpness(sharpness=reach).apply(images.clone(), u)
    high = 0.5 if reach == 0.5 else 3.0
    expected = torch.stack([TF.adjust_sharpness(x, high * row[0]) for x, row in zip(images, u, strict=True)])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_equalize_equals_torchvisions(pictures: Pictures, uniforms: Uniforms) -> None:
    images = ColorJitter().apply(pictures(8) * 0.5 + 0.2, uniforms(8, 5))
    images[0] = 0.3  # one value: nothing to spread
    out = Equalize().apply(images.clone(), np.empty((8, 0)))
    torch.testing.assert_close(out, TF.equalize(as_levels(images)).float() / 255)


# --- All of them


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (Posterize(), "posterize 4 bits"),
        (Grayscale(), "grayscale"),
        (GaussianBlur(), "blur 1.05 px"),
        (Solarize(), "solarize from 128"),
        (Sharpness(sharpness=(0.5, 2.5)), "sharpness 1.50"),
        (Equalize(), "equalize"),
    ],
)
def test_what_is_done_is_told_in_words(operation: Operation, words: str) -> None:
    found = operation.parameters(np.full((1, operation.draws), 0.5), 32, 32)
    assert operation.words({name: values[0] for name, values in found.items()}) == words


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (Posterize, {"bits": (0, 4)}, "bits must be a range from 1 to 8, not 0 to 4"),
        (Posterize, {"bits": (5, 3)}, "bits must be a range from 1 to 8, not 5 to 3"),
        (GaussianBlur, {"kernel_size": 8}, "kernel_size must be odd and at least 3, not 8"),
        (GaussianBlur, {"kernel_size": 1}, "kernel_size"),
        (GaussianBlur, {"sigma": (0.0, 2.0)}, "sigma must be a range of at least 0.01, not 0 to 2"),
        (Solarize, {"thresholds": (0.5, 1.2)}, "thresholds must be a range from 0 to 1, not 0.5 to 1.2"),
        (Sharpness, {"sharpness": -1.0}, "sharpness must be a range of at least 0, not 0 to -1"),
        (Grayscale, {"p": -0.1}, "p must be a probability, not -0.1"),
    ],
)
def test_impossible_settings_are_refused(kind: type[Operation], values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        kind(**values)
