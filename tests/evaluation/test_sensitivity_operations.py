"""Changes of photographs: the magnitude that they say, in both directions, on copies."""

from itertools import groupby

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from umbel.evaluation.sensitivity_operations import DRAWS, Change, changes

EVERY = changes()
# A direction or a place that is drawn, or a hue that is turned round, makes no steady growth of the difference.
UNSTEADY = ("rotation", "hue", "translation")


def photographs(n: int = 8, side: int = 32) -> Tensor:
    """(n, 3, side, side) soft color gradients with noise, in whole levels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic")
    return (smooth + 0.1 * torch.rand(n, 3, side, side, generator=generator)).clamp(0, 1).mul(255).round().div(255)


def uniforms(n: int = 8) -> np.ndarray:
    return np.random.default_rng(1).random((n, DRAWS))


def one(operation: str, label: str) -> Change:
    (found,) = (change for change in EVERY if (change.operation, change.label) == (operation, label))
    return found


@pytest.mark.parametrize("change", EVERY, ids=lambda change: f"{change.operation} {change.label}")
def test_a_change_keeps_shape_and_range_and_what_it_was_given(change: Change) -> None:
    images = photographs()
    before, drawn = images.clone(), uniforms()
    out = change.apply(images, drawn)
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(images, before)
    assert np.array_equal(drawn, uniforms())
    assert torch.equal(out, change.apply(images, uniforms()))


@pytest.mark.parametrize("operation", sorted({change.operation for change in EVERY if change.unit} - {*UNSTEADY}))
def test_strengths_go_from_mild_to_strong(operation: str) -> None:
    images = photographs()
    strengths = [change for change in EVERY if change.operation == operation]
    differences = [float((change.apply(images, uniforms()) - images).abs().mean()) for change in strengths]
    assert len(strengths) == 5
    assert differences == sorted(differences)
    assert differences[-1] > max(0.01, 2 * differences[0])


def test_every_operation_stands_together() -> None:
    together = [name for name, _ in groupby(EVERY, key=lambda change: change.operation)]
    assert len(together) == len(set(together)) == 17


@pytest.mark.parametrize(
    ("operation", "label", "reference"),
    [
        ("brightness", "40%", lambda image, sign: TF.adjust_brightness(image, 1 + sign * 0.4)),
        ("contrast", "60%", lambda image, sign: TF.adjust_contrast(image, 1 + sign * 0.6)),
        ("saturation", "100%", lambda image, sign: TF.adjust_saturation(image, 1 + sign)),
        ("hue", "0.2", lambda image, sign: TF.adjust_hue(image, sign * 0.2)),
    ],
)
def test_colors_change_by_the_full_strength_up_or_down(operation: str, label: str, reference: object) -> None:
    images, drawn = photographs(), uniforms()
    out = one(operation, label).apply(images, drawn)
    column = ("brightness", "contrast", "saturation", "hue").index(operation)
    signs = np.where(drawn[:, column] < 0.5, -1, 1)
    assert {*signs} == {-1, 1}
    wanted = torch.stack([reference(image, sign) for image, sign in zip(images, signs, strict=True)])  # type: ignore[operator]
    torch.testing.assert_close(out, wanted, atol=4e-3, rtol=0)


def test_rotation_by_a_right_angle_only_turns() -> None:
    images, drawn = photographs(), uniforms()
    out = one("rotation", "90").apply(images, drawn)
    for image, turned, u in zip(images, out, drawn[:, 0], strict=True):
        torch.testing.assert_close(turned, torch.rot90(image, 1 if u < 0.5 else -1, (1, 2)))


def test_translation_goes_by_the_full_share_to_the_side_and_up_or_down() -> None:
    images, drawn = photographs(side=30), uniforms()
    out = one("translation", "20%").apply(images, drawn)
    for image, moved, u in zip(images, out, drawn, strict=True):
        across, down = (-6 if one < 0.5 else 6 for one in u[1:3])
        wanted = torch.roll(image, (down, across), (1, 2))
        rows, columns = (slice(max(0, shift), 30 + min(0, shift)) for shift in (down, across))
        assert torch.equal(moved[:, rows, columns], wanted[:, rows, columns])
        assert float(moved.sum()) == pytest.approx(float(wanted[:, rows, columns].sum()), rel=1e-5)


def test_a_crop_keeps_its_share_of_the_area_anywhere() -> None:
    images, drawn = photographs(side=40), uniforms()
    drawn[0, :2], drawn[1, :2] = 0.0, 0.9999
    out = one("crop", "40%").apply(images, drawn)
    length = 25  # 40 sqrt(0.4)
    for row, corner in ((0, 0), (1, 40 - length)):
        wanted = TF.resized_crop(
            images[row].mul(255).to(torch.uint8), corner, corner, length, length, [40, 40],
            interpolation=TF.InterpolationMode.BICUBIC, antialias=True,
        )  # fmt: skip
        torch.testing.assert_close(out[row].mul(255).round(), wanted.float(), atol=1, rtol=0)


@pytest.mark.parametrize("side", [24, 48])
def test_blur_is_a_share_of_the_side(side: int) -> None:
    images = photographs(n=2, side=side)
    out = one("blur", "4.00%").apply(images, uniforms(2))
    sigma = 0.04 * side
    wanted = gaussian_filter(
        images.double().numpy(), (0, 0, sigma, sigma), mode="mirror", radius=int(np.ceil(3 * sigma))
    )
    np.testing.assert_allclose(out.numpy(), wanted, atol=1e-4)


def test_resolution_is_lost() -> None:
    stripes = (torch.arange(32) % 2).float().expand(1, 3, 32, 32).contiguous()
    out = one("resolution", "25%").apply(stripes, uniforms(1))
    assert float((out[:, :, :, 4:-4] - 0.5).abs().max()) < 0.02


def test_erasing_covers_its_share() -> None:
    white = torch.ones(8, 3, 40, 40)
    covered = 1 - one("erasing", "35%").apply(white, uniforms()).mean((1, 2, 3))
    assert covered.tolist() == pytest.approx([0.35] * 8, abs=0.03)
