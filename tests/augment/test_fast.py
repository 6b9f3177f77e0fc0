"""The faster ways of the policies equal plain Kornia on the same parameters, and touch no other image."""

import shutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from umbel.augment.fast_jitter import compiled_jitter_batch, jitter_batch
from umbel.augment.jitter import FACTORS, ORDERS, ColorJitter
from umbel.augment.operation import Operation
from umbel.augment.photometric import Posterize
from umbel.augment.policy import POLICIES, apply_policy, policy_draws
from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig

Pictures = Callable[..., Tensor]
Uniforms = Callable[..., np.ndarray]

OPERATIONS: list[Operation] = [
    ColorJitter(),
    ColorJitter(brightness=(0.0, 3.0), contrast=(0.0, 3.0), saturation=(0.0, 3.0), hue=0.5),
    ColorJitter(brightness=0.0, contrast=0.0, saturation=0.0, hue=(0.4, 0.5)),
    ColorJitter(brightness=0.0, contrast=0.0, saturation=0.0, hue=(-0.5, -0.4)),
    Posterize(bits=(1, 8)),
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("side", [16, 33, 120])
def test_an_operation_in_place_equals_kornia(
    operation: Operation, side: int, pictures: Pictures, uniforms: Uniforms
) -> None:
    images = pictures(26, side)
    rows = np.array([1, 2, *range(4, 26)])  # 24 images: every order of the jitter
    drawn = uniforms(len(rows), operation.draws)
    if isinstance(operation, ColorJitter):
        drawn[:, 4] = (np.arange(24) + 0.5) / 24
    parameters = operation.parameters(drawn, side, side)
    found = images.clone()
    operation.change_in_place(found, rows, parameters)
    expected = operation.change(images[rows], parameters)
    torch.testing.assert_close(found[rows], expected, rtol=0, atol=tolerance(operation))
    assert torch.equal(found[[0, 3]], images[[0, 3]])


def tolerance(operation: Operation) -> float:
    """Factors of 3, one after the other, enlarge a difference of the last bit."""
    return 5e-5 if operation == OPERATIONS[1] else 5e-6


def batch_of(operation: ColorJitter, images: Tensor, uniforms: Uniforms) -> tuple[Tensor, Tensor, Tensor]:
    """Factors, orders (every one; none for images 24 and 25), and what plain Kornia makes of it."""
    drawn = uniforms(24, operation.draws)
    drawn[:, 4] = (np.arange(24) + 0.5) / 24
    parameters = operation.parameters(drawn, images.shape[2], images.shape[3])
    factors, order = torch.zeros(26, 4), torch.full((26, 4), -1)
    factors[:24] = torch.from_numpy(np.stack([parameters[name] for name in FACTORS], 1))
    order[:24] = torch.from_numpy(parameters["order"])
    assert sorted(order[:24].tolist()) == ORDERS.tolist()
    return factors, order, operation.change(images[:24].clone(), parameters)


@pytest.mark.parametrize("operation", OPERATIONS[:4])
def test_a_whole_batch_at_once_equals_kornia(operation: ColorJitter, pictures: Pictures, uniforms: Uniforms) -> None:
    images = pictures(26)
    factors, order, expected = batch_of(operation, images, uniforms)
    found = jitter_batch(images, factors, order)
    torch.testing.assert_close(found[:24], expected, rtol=0, atol=tolerance(operation))
    assert torch.equal(found[24:], images[24:])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler here")
def test_compiled_it_is_the_same(pictures: Pictures, uniforms: Uniforms) -> None:
    images = pictures(26)
    factors, order, expected = batch_of(ColorJitter(hue=0.5), images, uniforms)
    found = compiled_jitter_batch()(images, factors, order)
    torch.testing.assert_close(found[:24], expected, rtol=0, atol=5e-6)
    assert torch.equal(found[24:], images[24:])


@pytest.mark.parametrize("policy", ["plant", "plant-paper", "dinov2"])
def test_a_policy_equals_plain_kornia(policy: str, pictures: Pictures, uniforms: Uniforms) -> None:
    """But for pixels on the edge between two levels, which the last bit may carry over it: one in a hundred thousand.

    A pixel so carried over keeps its new level through the affine that follows.
    """
    operations, images = POLICIES[policy], pictures(200, 32)
    drawn, view = uniforms(200, policy_draws(operations)), np.arange(200) % 3
    plain = apply_policy(images.clone(), operations, drawn, view, plain=True)
    found = apply_policy(images.clone(), operations, drawn, view)
    assert ((found - plain).abs() > 1e-5).float().mean() <= 1e-5
    assert not torch.equal(plain, images)


def test_views_are_rounded_to_the_dtype_asked_for() -> None:
    config = ViewsConfig(global_size=16, local_size=8, local_views=2)
    canvas = torch.randint(0, 256, (3, 3, 20, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    size, where = torch.tensor([[20, 24]] * 3), (np.zeros(3, dtype=np.int64), np.arange(3))

    def make(dtype: torch.dtype, config: ViewsConfig = config) -> tuple[Tensor, Tensor]:
        device = torch.device("cpu")
        views = Views(config, seed=0, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=device, dtype=dtype)
        globals_, locals_ = views(canvas, size, *where)
        return globals_, locals_

    for half, full in zip(make(torch.bfloat16), make(torch.float32), strict=True):
        assert full.dtype == torch.float32
        assert torch.equal(half, full.to(torch.bfloat16))
    none = make(torch.bfloat16, ViewsConfig(global_size=16, local_size=8, local_views=0))[1]
    assert none.shape == (0, 3, 8, 8)
    assert none.dtype == torch.bfloat16
