"""Color jitter: torchvision's and Kornia's with the same parameters, every order as often, factors uniform."""

import colorsys
import itertools
import re
from collections.abc import Callable
from typing import Any

import kornia.augmentation
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from umbel.augment.jitter import ORDERS, ColorJitter

Pictures = Callable[..., Tensor]
Uniforms = Callable[..., np.ndarray]
# The uniform that leaves the jitter's factors at 1 and the hue where it is.
HALF = 0.5


def factors(u: np.ndarray) -> tuple[float, float, float, float]:
    """Brightness, contrast, saturation and hue (in turns) of the plant configuration from their uniforms."""
    low, high = np.array([0.6, 0.6, 0.8, -0.1]), np.array([1.4, 1.4, 1.2, 0.1])
    b, c, s, h = low + (high - low) * u[:4]
    return float(b), float(c), float(s), float(h)


def order_number(k: int) -> float:
    """A uniform that stands for the k-th of the 24 orders."""
    return (k + 0.5) / 24


def torchvision_jitter(image: Tensor, u: np.ndarray) -> Tensor:
    b, c, s, h = factors(u)
    steps = [
        lambda x: TF.adjust_brightness(x, b),
        lambda x: TF.adjust_contrast(x, c),
        lambda x: TF.adjust_saturation(x, s),
        lambda x: TF.adjust_hue(x, h),
    ]
    for number in ORDERS[int(u[4] * 24)]:
        image = steps[number](image)
    return image


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("value", [0.0, 0.2, 0.8, 0.999])
def test_each_step_of_the_jitter_equals_torchvisions(which: int, value: float, pictures: Pictures) -> None:
    u = np.full((3, 5), HALF)
    u[:, which] = value
    images = pictures(3)
    out = ColorJitter().apply(images.clone(), u)
    expected = torchvision_jitter(images, u[0])
    # Gray is 0.299 of red in Kornia and 0.2989 in torchvision: at most 0.0001 * 0.4 of the range.
    torch.testing.assert_close(out, expected, rtol=0, atol=5e-5)
    assert not torch.allclose(out, images, atol=1e-3)


def test_whole_jitter_equals_torchvisions_in_every_order(pictures: Pictures, uniforms: Uniforms) -> None:
    images, u = pictures(48), uniforms(48, 5)
    u[:, 4] = [order_number(k % 24) for k in range(48)]
    out = ColorJitter().apply(images.clone(), u)
    expected = torch.stack([torchvision_jitter(image, row) for image, row in zip(images, u, strict=True)])
    difference = (out - expected).abs()
    # Different grays and roundings, through four steps; the hue of nearly gray pixels amplifies them.
    assert difference.max() < 1 / 255
    assert (difference > 2e-4).float().mean() < 1e-3


@pytest.mark.parametrize("k", range(24))
def test_jitter_equals_kornias_in_each_of_the_orders(k: int, pictures: Pictures, uniforms: Uniforms) -> None:
    images, u = pictures(4, seed=k), uniforms(4, 5, seed=k)
    u[:, 4] = order_number(k)
    # Float32 as the images are: one rounding of the same double in each path.
    b, c, s, h = (torch.tensor([factors(row)[i] for row in u]) for i in range(4))
    parameters = {"brightness_factor": b, "contrast_factor": c, "saturation_factor": s, "hue_factor": h}
    parameters["order"] = torch.from_numpy(ORDERS[k].copy())
    kornias = kornia.augmentation.ColorJitter(0.4, 0.4, 0.2, 0.1, p=1.0)(images, params=parameters)
    # Exact but for the hue's angle, which we multiply by 2 pi in float64 and Kornia in float32.
    torch.testing.assert_close(ColorJitter().apply(images.clone(), u), kornias, rtol=0, atol=2e-6)


def test_there_are_24_orders_and_each_is_drawn_as_often(uniforms: Uniforms) -> None:
    assert sorted(map(tuple, ORDERS.tolist())) == sorted(itertools.permutations(range(4)))
    orders = ColorJitter().parameters(uniforms(24 * 200, 5), 1, 1)["order"]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.01


def test_orders_differ_in_what_they_do() -> None:
    u = np.tile([0.9, 0.1, 0.05, 0.8, 0], (24, 1))
    u[:, 4] = [order_number(k) for k in range(24)]
    image = torch.tensor([0.9, 0.3, 0.1]).view(3, 1, 1) * torch.linspace(0.4, 1, 4).view(1, 2, 2)
    out = ColorJitter().apply(image.expand(24, 3, 2, 2).clone(), u)
    # Some orders agree: two steps that follow each other may commute.
    assert len({tuple(row.flatten().mul(1e4).round().tolist()) for row in out}) >= 12


def test_an_image_has_the_jitter_of_its_own_row(pictures: Pictures, uniforms: Uniforms) -> None:
    images, u = pictures(30), uniforms(30, 5)
    together = ColorJitter().apply(images.clone(), u)
    apart = torch.cat([ColorJitter().apply(images[i : i + 1].clone(), u[i : i + 1]) for i in range(30)])
    assert torch.equal(together, apart)


def test_brightness_and_contrast_are_uniform_in_their_ranges(uniforms: Uniforms) -> None:
    # Gray stripes: saturation and hue do nothing; contrast scales stripe / mean, brightness the mean, in any order.
    u = uniforms(2000, 5)
    stripes = torch.tensor([0.4, 0.6]).repeat(2).view(1, 1, 1, 4).expand(2000, 3, 4, 4)
    out = ColorJitter().apply(stripes.clone(), u).double()[:, 0, 0]
    mean, stripe = out[:, :2].mean(1), out[:, 1] - out[:, 0]
    for found in (mean / 0.5, stripe / mean / 0.4):
        assert 0.6 - 1e-4 <= float(found.min()) < 0.61
        assert 1.39 < float(found.max()) <= 1.4 + 1e-4
        assert stats.kstest(found.numpy(), stats.uniform(0.6, 0.8).cdf).pvalue > 0.01


def test_saturation_and_hue_are_uniform_in_their_ranges(uniforms: Uniforms) -> None:
    u = uniforms(2000, 5)
    color = torch.tensor([0.6, 0.4, 0.3]).view(1, 3, 1, 1).expand(2000, 3, 2, 2)
    saturated = ColorJitter(brightness=0, contrast=0, hue=0).apply(color.clone(), u).double()[:, :, 0, 0]
    spread = (saturated[:, 0] - saturated[:, 2]) / 0.3
    turned = ColorJitter(brightness=0, contrast=0, saturation=0).apply(color.clone(), u).double()[:, :, 0, 0]
    first = colorsys.rgb_to_hsv(0.6, 0.4, 0.3)[0]
    hue = np.array([(colorsys.rgb_to_hsv(*rgb)[0] - first + 0.5) % 1 - 0.5 for rgb in turned.tolist()])
    for found, reach in ((spread.numpy() - 1, 0.2), (hue, 0.1)):
        assert np.abs(found).max() <= reach + 1e-4
        assert stats.kstest(found, stats.uniform(-reach, 2 * reach).cdf).pvalue > 0.01


def test_a_range_of_ones_own_is_kept() -> None:
    jitter = ColorJitter(brightness=(0.5, 1.2), contrast=0.3, saturation=(0.0, 2.0), hue=(-0.2, 0.0))
    assert jitter.ranges == ((0.5, 1.2), (0.7, 1.3), (0.0, 2.0), (-0.2, 0.0))
    found = jitter.parameters(np.array([[0, 0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5, 0]]), 1, 1)
    assert found["brightness"].tolist() == pytest.approx([0.5, 0.85])
    assert found["contrast"].tolist() == pytest.approx([0.7, 1])
    assert found["saturation"].tolist() == pytest.approx([0, 1])
    assert found["hue"].tolist() == pytest.approx([-0.2, -0.1])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"brightness": 1.1}, "brightness must be a range of at least 0, not -0.1 to 2.1"),
        ({"contrast": (1.2, 0.9)}, "contrast must be a range of at least 0, not 1.2 to 0.9"),
        ({"saturation": (0.0, float("inf"))}, "saturation"),
        ({"saturation": float("nan")}, "saturation"),
        ({"hue": 0.6}, "hue must be a range from -0.5 to 0.5, not -0.6 to 0.6"),
        ({"p": 1.5}, "p must be a probability, not 1.5"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        ColorJitter(**values)


def test_what_is_done_is_told_in_words() -> None:
    # The last but one of the orders is hue, saturation, brightness, contrast.
    parameters = ColorJitter().parameters(np.array([[0, 0.5, 0.999, 0.501, 22.5 / 24]]), 1, 1)
    words = ColorJitter().words({name: values[0] for name, values in parameters.items()})
    assert words == "jitter b0.60 c1.00 s1.20 h+0.00 order hsbc"
    parameters["hue"] -= 0.003
    assert "h+0.00" in ColorJitter().words({name: values[0] for name, values in parameters.items()})
