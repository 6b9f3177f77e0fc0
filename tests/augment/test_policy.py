"""Policies: what they hold, how often each operation comes in each view, and that nothing else is touched."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from umbel.augment.geometric import Affine, Erasing, HorizontalFlip, Rotation, VerticalFlip
from umbel.augment.jitter import ColorJitter
from umbel.augment.operation import ByView, Operation
from umbel.augment.photometric import Equalize, GaussianBlur, Grayscale, Posterize, Sharpness, Solarize
from umbel.augment.policy import POLICIES, Operations, apply_policy, policy_draws, words_of

Pictures = Callable[..., Tensor]
Uniforms = Callable[..., np.ndarray]
PLANT, DINOV2 = POLICIES["plant"], POLICIES["dinov2"]
EVERY: Operations = (
    *PLANT, *DINOV2, Sharpness(), Equalize(), Rotation(), HorizontalFlip(), VerticalFlip(), Erasing(),
)  # fmt: skip
SMALL = 24


def by_view(n: int) -> np.ndarray:
    """(n,): views 0, 1, 2, ... 11 in turn."""
    return np.arange(n) % 12


def test_the_plant_papers_policy_is_jitter_posterize_affine_in_this_order() -> None:
    assert POLICIES["plant-paper"] == (
        ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
        Posterize(p=0.5, bits=(3, 5)),
        Affine(p=0.3, degrees=10.0, translate=0.1, resample="nearest", padding_mode="zeros"),
    )


def test_the_default_policy_is_the_plant_papers() -> None:
    assert POLICIES["plant"] == POLICIES["plant-paper"]


def test_dinov2s_policy_is_jitter_grayscale_blur_solarize_in_this_order() -> None:
    assert POLICIES["dinov2"] == (
        ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
        Grayscale(p=0.2),
        GaussianBlur(p=ByView(first_global=1.0, second_global=0.1, local=0.5), kernel_size=9, sigma=(0.1, 2.0)),
        Solarize(p=ByView(first_global=0.0, second_global=0.2, local=0.0), thresholds=(128 / 255, 128 / 255)),
    )
    assert list(POLICIES) == ["plant", "plant-paper", "dinov2", "none"]
    assert POLICIES["none"] == ()


# Probability in the first global, the second global and the local views.
FREQUENCIES = [
    *[(operation, (p, p, p)) for operation, p in zip(PLANT, (0.8, 0.5, 0.3), strict=True)],
    *zip(DINOV2, [(0.8,) * 3, (0.2,) * 3, (1.0, 0.1, 0.5), (0.0, 0.2, 0.0)], strict=True),
]


@pytest.mark.parametrize(("operation", "chances"), FREQUENCIES, ids=lambda x: type(x).__name__)
def test_an_operation_is_applied_as_often_as_stated_and_others_stay_untouched(
    operation: Operation, chances: tuple[float, float, float], pictures: Pictures, uniforms: Uniforms
) -> None:
    n = 6000
    images, u = pictures(1, SMALL).expand(n, 3, SMALL, SMALL), uniforms(n, policy_draws((operation,)))
    view = np.random.default_rng(1).integers(0, 4, n)
    out = apply_policy(images.clone(), (operation,), u, view)
    changed = (out != images).flatten(1).any(1).numpy()
    expected = np.array(chances)[np.minimum(view, 2)]
    for number in range(4):
        # The deviation of a share of 1500 is at most 0.013. A hundredth of affines move nothing at 24 pixels, nor do
        # blurs of less than 0.13 pixels.
        assert changed[view == number].mean() == pytest.approx(expected[view == number][0], abs=0.05)
    assert not changed[u[:, 0] >= expected].any()
    assert changed[u[:, 0] < expected].mean() > 0.97


def test_a_policy_is_its_operations_one_after_the_other(pictures: Pictures, uniforms: Uniforms) -> None:
    n = 24
    for policy, all_draws in ((PLANT, (5, 1, 3)), (DINOV2, (5, 0, 1, 1))):
        images, u, view = pictures(n, SMALL), uniforms(n, policy_draws(policy)), by_view(n)
        out = apply_policy(images.clone(), policy, u, view, plain=True)
        for i in range(n):
            one, column = images[i : i + 1].clone(), 0
            for operation, draws in zip(policy, all_draws, strict=True):
                if u[i, column] < operation.chance(view[i : i + 1])[0]:
                    one = operation.apply(one, u[i : i + 1, column + 1 : column + 1 + draws])
                column += 1 + draws
            # A convolution over several images may sum in another order.
            torch.testing.assert_close(out[i : i + 1], one, rtol=0, atol=0 if policy == PLANT else 1e-6)
    assert (policy_draws(PLANT), policy_draws(DINOV2)) == (12, 11)


def test_words_tell_of_the_operations_that_were_applied(uniforms: Uniforms) -> None:
    n = 3000
    u, view = uniforms(n, policy_draws(DINOV2)), by_view(n)
    words = [[text.split()[0] for text in words_of(DINOV2, u[i : i + 1], int(view[i]), 32)] for i in range(n)]
    for number, name in enumerate(("jitter", "grayscale", "blur", "solarize")):
        column = policy_draws(DINOV2[:number])
        told = np.array([name in each for each in words])
        assert np.array_equal(told, u[:, column] < DINOV2[number].chance(view))
    assert all(each == sorted(each, key=["jitter", "grayscale", "blur", "solarize"].index) for each in words)
    assert words_of((), np.empty((1, 0)), 0, 32) == []


def test_words_give_the_parameters_of_the_images_own_row() -> None:
    u = np.full((1, policy_draws(PLANT)), 0.25)
    u[0, 8:] = [0.29, 0.85, 0.999, 0.0]
    assert words_of(PLANT, u, 5, 40) == [
        "jitter b0.80 c0.80 s0.90 h-0.05 order cbsh", "posterize 3 bits", "affine 7.0° 4,-4 px",
    ]  # fmt: skip


@pytest.mark.parametrize("operation", EVERY, ids=lambda x: type(x).__name__)
def test_results_are_images_whatever_went_in(operation: Operation, pictures: Pictures, uniforms: Uniforms) -> None:
    images = torch.cat([pictures(60), torch.zeros(20, 3, 16, 16), torch.ones(20, 3, 16, 16)])
    given = images.clone()
    out = operation.apply(given, uniforms(100, operation.draws))
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("operation", EVERY, ids=lambda x: type(x).__name__)
def test_an_image_has_what_its_own_row_says(operation: Operation, pictures: Pictures, uniforms: Uniforms) -> None:
    images, u = pictures(12), uniforms(12, operation.draws)
    together = operation.apply(images.clone(), u)
    apart = torch.cat([operation.apply(images[i : i + 1].clone(), u[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6 if isinstance(operation, GaussianBlur) else 0)


@pytest.mark.parametrize("operation", EVERY, ids=lambda x: type(x).__name__)
def test_an_operation_works_on_its_least_side(operation: Operation, uniforms: Uniforms) -> None:
    side = operation.least_side
    assert operation.apply(torch.rand(2, 3, side, side), uniforms(2, operation.draws)).shape == (2, 3, side, side)


def test_no_policy_changes_nothing(pictures: Pictures) -> None:
    images = pictures(4)
    assert torch.equal(apply_policy(images.clone(), POLICIES["none"], np.empty((4, 0)), by_view(4)), images)


def test_no_global_generator_is_touched(pictures: Pictures, uniforms: Uniforms) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    apply_policy(pictures(20), EVERY, uniforms(20, policy_draws(EVERY)), by_view(20))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), ByView(local=2.0)])
def test_what_is_no_probability_is_refused(p: float | ByView) -> None:
    with pytest.raises(ValueError, match="p must be a probability"):
        Grayscale(p=p)
