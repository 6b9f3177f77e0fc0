"""The plant policy: operations equal torchvision's (and Kornia's) with the same parameters; how often, how much."""

import colorsys
import itertools
import math

import kornia.augmentation
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from umbel.augment.policy import ORDERS, POLICIES, Affine, ColorJitter, Operation, Posterize, apply_policy, policy_draws

PLANT = POLICIES["plant"]
# The uniform that leaves the jitter's factors at 1 and the hue where it is.
HALF = 0.5


def pictures(n: int, side: int = 16, seed: int = 0) -> Tensor:
    """Noise with black, white and gray areas, in whole levels of 255 as crops are."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, 3, side, side), generator=generator).float()
    quarter = side // 4
    x[:, :, :quarter, :quarter], x[:, :, :quarter, -quarter:], x[:, :, -quarter:, :quarter] = 0, 255, 77
    return x / 255


def uniforms(n: int, draws: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, draws))


def factors(u: np.ndarray) -> tuple[float, float, float, float]:
    """Brightness, contrast, saturation and hue (in turns) of the plant configuration from their uniforms."""
    low, high = np.array([0.6, 0.6, 0.8, -0.1]), np.array([1.4, 1.4, 1.2, 0.1])
    b, c, s, h = low + (high - low) * u[:4]
    return float(b), float(c), float(s), float(h)


def order_number(k: int) -> float:
    """A uniform that stands for the k-th of the 24 orders."""
    return (k + 0.5) / 24


# --- Color jitter


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
def test_each_step_of_the_jitter_equals_torchvisions(which: int, value: float) -> None:
    u = np.full((3, 5), HALF)
    u[:, which] = value
    images = pictures(3)
    out = ColorJitter().apply(images.clone(), u)
    expected = torchvision_jitter(images, u[0])
    # Gray is 0.299 of red in Kornia and 0.2989 in torchvision: at most 0.0001 * 0.4 of the range.
    torch.testing.assert_close(out, expected, rtol=0, atol=5e-5)
    assert not torch.allclose(out, images, atol=1e-3)


def test_whole_jitter_equals_torchvisions_in_every_order() -> None:
    images, u = pictures(48), uniforms(48, 5)
    u[:, 4] = [order_number(k % 24) for k in range(48)]
    out = ColorJitter().apply(images.clone(), u)
    expected = torch.stack([torchvision_jitter(image, row) for image, row in zip(images, u, strict=True)])
    difference = (out - expected).abs()
    # Different grays and roundings, through four steps; the hue of nearly gray pixels amplifies them.
    assert difference.max() < 1 / 255
    assert (difference > 2e-4).float().mean() < 1e-3


@pytest.mark.parametrize("k", range(24))
def test_jitter_equals_kornias_in_each_of_the_orders(k: int) -> None:
    images, u = pictures(4, seed=k), uniforms(4, 5, seed=k)
    u[:, 4] = order_number(k)
    # Float32 as the images are: one rounding of the same double in each path.
    b, c, s, h = (torch.tensor([factors(row)[i] for row in u]) for i in range(4))
    parameters = {"brightness_factor": b, "contrast_factor": c, "saturation_factor": s, "hue_factor": h}
    parameters["order"] = torch.from_numpy(ORDERS[k].copy())
    kornias = kornia.augmentation.ColorJitter(0.4, 0.4, 0.2, 0.1, p=1.0)(images, params=parameters)
    # Exact but for the hue's angle, which we multiply by 2 pi in float64 and Kornia in float32.
    torch.testing.assert_close(ColorJitter().apply(images.clone(), u), kornias, rtol=0, atol=2e-6)


def test_there_are_24_orders_and_each_is_drawn_as_often() -> None:
    assert sorted(map(tuple, ORDERS.tolist())) == sorted(itertools.permutations(range(4)))
    u = uniforms(24 * 200, 5)
    u[:, :4] = [0.9, 0.1, 0.05, 0.8]
    image = torch.tensor([0.9, 0.3, 0.1]).view(3, 1, 1) * torch.linspace(0.4, 1, 4).view(1, 2, 2)
    out = ColorJitter().apply(image.expand(len(u), 3, 2, 2).clone(), u)
    # Orders give different results: count results by the number that was drawn, and the numbers.
    counts = np.bincount((u[:, 4] * 24).astype(int), minlength=24)
    assert counts.min() > 140
    distinct = {tuple(row.flatten().mul(1e4).round().tolist()) for row in out}
    assert 12 <= len(distinct) <= 24


def test_an_image_has_the_jitter_of_its_own_row() -> None:
    images, u = pictures(30), uniforms(30, 5)
    together = ColorJitter().apply(images.clone(), u)
    apart = torch.cat([ColorJitter().apply(images[i : i + 1].clone(), u[i : i + 1]) for i in range(30)])
    assert torch.equal(together, apart)


def test_brightness_and_contrast_are_uniform_in_their_ranges() -> None:
    # Gray stripes: saturation and hue do nothing; contrast scales stripe / mean, brightness the mean, in any order.
    u = uniforms(2000, 5)
    stripes = torch.tensor([0.4, 0.6]).repeat(2).view(1, 1, 1, 4).expand(2000, 3, 4, 4)
    out = ColorJitter().apply(stripes.clone(), u).double()[:, 0, 0]
    mean, stripe = out[:, :2].mean(1), out[:, 1] - out[:, 0]
    for found in (mean / 0.5, stripe / mean / 0.4):
        assert 0.6 - 1e-4 <= float(found.min()) < 0.61
        assert 1.39 < float(found.max()) <= 1.4 + 1e-4
        assert stats.kstest(found.numpy(), stats.uniform(0.6, 0.8).cdf).pvalue > 0.01


def test_saturation_and_hue_are_uniform_in_their_ranges() -> None:
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


# --- Posterize


@pytest.mark.parametrize(("bits", "u"), [(3, 0.0), (3, 0.333), (4, 0.334), (4, 0.666), (5, 0.667), (5, 0.999)])
def test_posterize_equals_torchvisions_on_every_level(bits: int, u: float) -> None:
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    out = Posterize().apply(ramp.float() / 255, np.array([[u]]))
    torch.testing.assert_close(out, TF.posterize(ramp, bits).float() / 255)
    assert out[0, 0].unique().numel() == 2**bits


def test_posterize_rounds_the_fractions_that_the_jitter_leaves() -> None:
    images = ColorJitter().apply(pictures(6), uniforms(6, 5))
    out = Posterize().apply(images.clone(), np.full((6, 1), 0.5))
    expected = TF.posterize(images.mul(255).round().to(torch.uint8), 4)
    torch.testing.assert_close(out, expected.float() / 255)


def test_bits_are_a_third_each() -> None:
    u = uniforms(3000, 1)
    ramp = torch.arange(256).view(1, 1, 16, 16).expand(3000, 3, 16, 16) / 255
    kept = [int(image[0].unique().numel()) for image in Posterize().apply(ramp, u)]
    shares = [kept.count(2**bits) / 3000 for bits in (3, 4, 5)]
    # The deviation of a share of 3000 is 0.009.
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


# --- Affine


@pytest.mark.parametrize("side", [32, 96, 33])
def test_affine_equals_torchvisions_nearest_with_zeros(side: int) -> None:
    images, u = pictures(60, side) * 0.9 + 0.1, uniforms(60, 3)
    out = Affine().apply(images.clone(), u)
    differing = []
    for image, row, found in zip(images, u, out, strict=True):
        angle = -10 + 20 * row[0]
        shift = [round((-0.1 + 0.2 * r) * side) for r in row[1:]]
        expected = TF.affine(
            image, angle=angle, translate=shift, scale=1.0, shear=[0.0, 0.0],
            interpolation=InterpolationMode.NEAREST, fill=0,
        )  # fmt: skip
        differing.append(float((found != expected).any(0).float().mean()))
    # A pixel whose source lies halfway between two, to float32's rounding, may take either.
    assert max(differing) < 0.005
    assert np.mean(differing) < 0.0005


def test_affine_moves_pixels_and_makes_none() -> None:
    images = pictures(20, 32) * 0.9 + 0.1
    out = Affine().apply(images.clone(), uniforms(20, 3))
    for image, found in zip(images, out, strict=True):
        colors = {tuple(c) for c in image.flatten(1).T.tolist()} | {(0.0, 0.0, 0.0)}
        assert {tuple(c) for c in found.flatten(1).T.tolist()} <= colors
    assert (out == 0).all(1).any()


def test_rotation_and_translation_are_uniform_in_their_ranges() -> None:
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


# --- The policy


def test_the_plant_policy_is_jitter_posterize_affine_in_this_order() -> None:
    assert (
        ColorJitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
        Posterize(probability=0.5, bits=(3, 4, 5)),
        Affine(probability=0.3, degrees=10.0, translate=0.1),
    ) == PLANT
    assert POLICIES["none"] == ()


@pytest.mark.parametrize(("operation", "probability"), list(zip(PLANT, (0.8, 0.5, 0.3), strict=True)))
def test_an_operation_is_applied_as_often_as_stated_and_others_stay_untouched(
    operation: Operation, probability: float
) -> None:
    n = 2000
    images, u = pictures(1, 24).expand(n, 3, 24, 24), uniforms(n, policy_draws((operation,)))
    out = apply_policy(images.clone(), (operation,), u)
    changed = (out != images).flatten(1).any(1)
    # The deviation of a share of 2000 is at most 0.011; a hundredth of affines move nothing at 24 pixels.
    assert float(changed.float().mean()) == pytest.approx(probability, abs=0.04)
    assert not changed[torch.from_numpy(u[:, 0] >= probability)].any()
    assert changed[torch.from_numpy(u[:, 0] < probability)].float().mean() > 0.97


def test_operations_are_drawn_independently_and_follow_each_other() -> None:
    n = 12
    images, u = pictures(n, 24), uniforms(n, policy_draws(PLANT))
    out = apply_policy(images.clone(), PLANT, u)
    for i in range(n):
        one = images[i : i + 1].clone()
        column = 0
        for operation, probability, draws in zip(PLANT, (0.8, 0.5, 0.3), (5, 1, 3), strict=True):
            if u[i, column] < probability:
                one = operation.apply(one, u[i : i + 1, column + 1 : column + 1 + draws])
            column += 1 + draws
        assert torch.equal(out[i : i + 1], one)
    assert policy_draws(PLANT) == 12


def test_results_stay_within_0_and_1() -> None:
    images = torch.cat([pictures(200), torch.zeros(50, 3, 16, 16), torch.ones(50, 3, 16, 16)])
    out = apply_policy(images, PLANT, uniforms(300, policy_draws(PLANT)))
    assert out.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1


def test_no_policy_changes_nothing() -> None:
    images = pictures(4)
    assert torch.equal(apply_policy(images.clone(), POLICIES["none"], np.empty((4, 0))), images)


def test_no_global_generator_is_touched() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    apply_policy(pictures(20), PLANT, uniforms(20, policy_draws(PLANT)))
    assert torch.equal(torch.get_rng_state(), before)
