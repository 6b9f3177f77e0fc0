"""Boxes of random resized crops against torchvision's: draw by draw, in distribution, and where nothing fits."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from umbel.augment.boxes import BOX_DRAWS, TRIES, draw_boxes

ASPECT = (3 / 4, 4 / 3)
GLOBAL_AREA, LOCAL_AREA = (0.4, 1.0), (0.05, 0.4)


def ours(height: int, width: int, count: int, area: tuple[float, float], seed: int = 0) -> np.ndarray:
    uniforms = np.random.default_rng(seed).random((count, BOX_DRAWS))
    return draw_boxes(uniforms, np.array([[height, width]] * count), area=area, aspect=ASPECT)


def theirs(height: int, width: int, count: int, area: tuple[float, float]) -> np.ndarray:
    torch.manual_seed(0)
    image = torch.empty(1, 1, 1).expand(3, height, width)
    return np.array([RandomResizedCrop.get_params(image, list(area), list(ASPECT)) for _ in range(count)])


def reference(u: np.ndarray, height: int, width: int, area: tuple[float, float]) -> tuple[int, int, int, int]:
    """One box by torchvision's rules from the uniforms: areas of all tries, aspects of all tries, top, left."""
    for attempt in range(TRIES):
        wanted = height * width * (area[0] + (area[1] - area[0]) * u[attempt])
        ratio = math.exp(math.log(ASPECT[0]) + (math.log(ASPECT[1]) - math.log(ASPECT[0])) * u[TRIES + attempt])
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(u[-2] * (height - h + 1)), int(u[-1] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ASPECT[0]:
        h = round(width / ASPECT[0])
    elif width / height > ASPECT[1]:
        w = round(height * ASPECT[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("area", [GLOBAL_AREA, LOCAL_AREA])
def test_every_box_is_the_one_that_the_rules_give(area: tuple[float, float]) -> None:
    generator = np.random.default_rng(0)
    size = generator.integers(8, 500, (500, 2))
    uniforms = generator.random((500, BOX_DRAWS))
    boxes = draw_boxes(uniforms, size, area=area, aspect=ASPECT)
    assert boxes.dtype == np.int64
    for u, (height, width), box in zip(uniforms, size.tolist(), boxes, strict=True):
        assert tuple(box) == reference(u, height, width, area)


@pytest.mark.parametrize("area", [GLOBAL_AREA, LOCAL_AREA])
@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 300), (224, 224)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, area: tuple[float, float]) -> None:
    a, b = ours(height, width, 2000, area), theirs(height, width, 2000, area)
    # Seeded, so the p-values are what they are; a thousandth is far from chance, and 24 of them are looked at.
    for name, measure in {
        "area": lambda x: x[:, 2] * x[:, 3],
        "aspect": lambda x: np.log(x[:, 3] / x[:, 2]),
        "top": lambda x: x[:, 0] / np.maximum(height - x[:, 2], 1),
        "left": lambda x: x[:, 1] / np.maximum(width - x[:, 3], 1),
    }.items():
        assert stats.ks_2samp(measure(a), measure(b), method="asymp").pvalue > 0.001, name


def test_area_is_uniform_and_aspect_log_uniform_where_everything_fits() -> None:
    boxes = ours(2000, 2000, 3000, LOCAL_AREA)
    share = boxes[:, 2] * boxes[:, 3] / 2000**2
    assert stats.kstest(share, stats.uniform(0.05, 0.35).cdf).pvalue > 0.01
    low, high = math.log(3 / 4), math.log(4 / 3)
    assert stats.kstest(np.log(boxes[:, 3] / boxes[:, 2]), stats.uniform(low, high - low).cdf).pvalue > 0.01


def test_boxes_lie_inside_the_photograph_whatever_its_size() -> None:
    generator = np.random.default_rng(1)
    size = generator.integers(1, 60, (5000, 2))
    size[:5] = [[1, 1], [1, 500], [500, 1], [2, 3], [1, 2]]
    uniforms = generator.random((5000, BOX_DRAWS))
    uniforms[:100] = np.nextafter(1, 0)  # the greatest number there is
    for area in (GLOBAL_AREA, LOCAL_AREA):
        top, left, height, width = draw_boxes(uniforms, size, area=area, aspect=ASPECT).T
        assert min(top.min(), left.min()) >= 0
        assert min(height.min(), width.min()) >= 1
        assert (top + height <= size[:, 0]).all()
        assert (left + width <= size[:, 1]).all()


@pytest.mark.parametrize(("height", "width"), [(20, 400), (400, 20), (21, 401), (33, 997), (997, 33), (1, 50)])
def test_panoramas_get_torchvisions_fallback(height: int, width: int) -> None:
    # No try can fit: even the smallest global box is higher (or wider) than the photograph.
    assert {tuple(box) for box in ours(height, width, 50, GLOBAL_AREA)} == {
        tuple(box) for box in theirs(height, width, 5, GLOBAL_AREA)
    }


def test_a_row_depends_on_its_own_numbers_alone() -> None:
    generator = np.random.default_rng(2)
    uniforms, size = generator.random((6, BOX_DRAWS)), generator.integers(20, 300, (6, 2))
    together = draw_boxes(uniforms, size, area=LOCAL_AREA, aspect=ASPECT)
    apart = [draw_boxes(uniforms[i : i + 1], size[i : i + 1], area=LOCAL_AREA, aspect=ASPECT)[0] for i in range(6)]
    assert np.array_equal(together, np.stack(apart))
