"""Crops: the GPU's matrix products against torchvision's resize, and that against Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from umbel.augment.crops import _crop_by_products, crop, resampling_weights

HEIGHT, WIDTH = 90, 120
# Top, left, height, width: enlarged, shrunk in both directions, in one, the whole canvas, the very size of the crop.
BOXES = torch.tensor([[3, 5, 11, 14], [2, 1, 88, 119], [1, 60, 80, 20], [0, 0, HEIGHT, WIDTH], [40, 50, 32, 32]])
SOURCE = torch.tensor([0, 1, 0, 1, 1])


def smooth_canvas() -> Tensor:
    """Two photographs with soft shapes in the middle of the range (no resize overshoots 0 or 255)."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    phases = torch.arange(6.0).view(2, 3, 1, 1)
    waves = torch.sin(x / 7 + phases) + torch.sin(y / 5 + 2 * phases) + torch.sin((x + y) / 3 + phases) / 2
    return (128 + 40 * waves).round().to(torch.uint8)


def noise_canvas() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)


def one_by_one(canvas: Tensor, source: Tensor, boxes: Tensor, size: int) -> Tensor:
    """torchvision's, as on a CPU, not mirrored."""
    return crop(canvas, source, boxes, torch.zeros(len(source), dtype=torch.bool), size=size)


def levels(crops: Tensor) -> Tensor:
    return crops * 255


@pytest.mark.parametrize("size", [16, 32, 96])
@pytest.mark.parametrize("canvas", [smooth_canvas(), noise_canvas()], ids=["smooth", "noise"])
def test_products_equal_torchvision_within_a_level(size: int, canvas: Tensor) -> None:
    # torchvision's weights are 16-bit integers: a pixel in fifty is a level off. Where a box is enlarged, a level of
    # the first pass may grow to two in the second, for fewer than one pixel in ten thousand.
    a, b = (cut(canvas, SOURCE, BOXES, size) for cut in (_crop_by_products, one_by_one))
    difference = (levels(a) - levels(b)).abs()
    assert difference.max() < 2.01
    assert (difference > 1.5).float().mean() < 1e-4
    assert (difference > 0.5).float().mean() < 0.02


@pytest.mark.parametrize("size", [16, 32, 96])
@pytest.mark.parametrize("cut", [_crop_by_products, one_by_one])
def test_crops_equal_pillows_bicubic(size: int, cut: object) -> None:
    # Pillow is what published evaluations use. Rounded weights make a level's difference, rarely two; on images that
    # overshoot the range it would be more, since Pillow chooses which direction goes (and is clipped) first.
    canvas = smooth_canvas()
    crops = cut(canvas, SOURCE, BOXES, size)  # type: ignore[operator]
    for row, image, (top, left, height, width) in zip(crops, SOURCE.tolist(), BOXES.tolist(), strict=True):
        piece = canvas[image, :, top : top + height, left : left + width].permute(1, 2, 0).numpy()
        expected = np.array(Image.fromarray(piece).resize((size, size), Image.Resampling.BICUBIC))
        difference = np.abs(levels(row).permute(1, 2, 0).numpy() - expected)
        assert difference.max() < 2.01
        assert (difference > 1.5).mean() < 1e-3


@pytest.mark.parametrize("cut", [_crop_by_products, one_by_one])
def test_a_box_of_the_crops_size_is_copied(cut: object) -> None:
    canvas = noise_canvas()
    crops = cut(canvas, SOURCE[-1:], BOXES[-1:], 32)  # type: ignore[operator]
    assert torch.equal(levels(crops[0]).round().to(torch.uint8), canvas[1, :, 40:72, 50:82])


@pytest.mark.parametrize("cut", [_crop_by_products, one_by_one])
def test_pixels_outside_the_box_do_not_reach_in(cut: object) -> None:
    # The canvas is padded beyond a photograph's edge, and the padding must not bleed into views.
    canvas = noise_canvas()
    other = 255 - canvas
    for image, (top, left, height, width) in zip(SOURCE.tolist(), BOXES.tolist(), strict=True):
        inside = np.s_[:, top : top + height, left : left + width]
        changed = other[image].clone()
        changed[inside] = canvas[image][inside]
        box, first = torch.tensor([[top, left, height, width]]), torch.tensor([0])
        crops = [cut(photograph[None], first, box, 24) for photograph in (canvas[image], changed)]  # type: ignore[operator]
        assert torch.equal(*crops)


@pytest.mark.parametrize("cut", [_crop_by_products, one_by_one])
def test_crops_are_whole_levels_in_0_to_1(cut: object) -> None:
    crops = cut(noise_canvas(), SOURCE, BOXES, 32)  # type: ignore[operator]
    assert crops.dtype == torch.float32
    assert crops.shape == (len(BOXES), 3, 32, 32)
    assert crops.min() >= 0
    assert crops.max() <= 1
    torch.testing.assert_close(levels(crops), levels(crops).round(), rtol=0, atol=1e-4)


def test_flipped_crops_are_mirrored_left_to_right_and_others_are_not() -> None:
    canvas = smooth_canvas()
    flip = torch.tensor([True, False, True, False, True])
    plain = one_by_one(canvas, SOURCE, BOXES, 32)
    out = crop(canvas, SOURCE, BOXES, flip, size=32)
    for row in range(len(BOXES)):
        assert torch.equal(out[row], plain[row].flip(2) if flip[row] else plain[row])
    assert not torch.equal(plain, plain.flip(3))


def test_one_image_at_a_time_or_all_at_once_is_the_same() -> None:
    canvas = smooth_canvas()
    for cut in (_crop_by_products, one_by_one):
        together = cut(canvas, SOURCE, BOXES, 32)
        for row in range(len(BOXES)):
            assert torch.equal(cut(canvas, SOURCE[row : row + 1], BOXES[row : row + 1], 32)[0], together[row])


@pytest.mark.parametrize(("start", "length", "size"), [(0, 10, 10), (3, 7, 20), (5, 90, 16), (0, 1, 4), (99, 1, 5)])
def test_weights_sum_to_one_inside_the_box_and_are_zero_outside(start: int, length: int, size: int) -> None:
    weights = resampling_weights(torch.tensor([start]), torch.tensor([length]), 100, size)[0]
    assert weights.shape == (size, 100)
    torch.testing.assert_close(weights.sum(1), torch.ones(size))
    outside = torch.ones(100, dtype=torch.bool)
    outside[start : start + length] = False
    assert (weights[:, outside] == 0).all()


def test_weights_are_keys_cubic_widened_by_the_scale() -> None:
    def keys(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    for length, size in [(40, 10), (10, 40), (33, 32)]:
        scale = length / size
        found = resampling_weights(torch.tensor([7]), torch.tensor([length]), 60, size)[0]
        for i in range(size):
            center = (i + 0.5) * scale
            row = torch.tensor([keys((j + 0.5 - center) / max(scale, 1)) for j in range(length)])
            torch.testing.assert_close(found[i, 7 : 7 + length], row / row.sum(), rtol=1e-4, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_crops_equal_the_cpus_within_a_level() -> None:
    flip = torch.tensor([True, False, True, False, True])
    canvas = smooth_canvas()
    here = crop(canvas, SOURCE, BOXES, flip, size=32)
    there = crop(canvas.cuda(), SOURCE, BOXES, flip, size=32).cpu()
    difference = (levels(here) - levels(there)).abs()
    assert difference.max() < 2.01
    assert (difference > 1.5).float().mean() < 1e-3
    assert (difference > 0.5).float().mean() < 0.02
