"""Mixup and cutmix against loops over pixels; what is drawn hangs on seed, step and row alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from umbel.ssl.learner import Labels
from umbel.ssl.mix_images import MixImagesConfig, draw_mix, mix_images, mix_labels

BOTH = MixImagesConfig(mixup=0.4, cutmix=0.4, mixup_alpha=0.4, cutmix_alpha=1.0)
SIDE = 12


def batch(rows: int = 16) -> tuple[torch.Tensor, Labels]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(rows, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    target = torch.rand(rows, 5, generator=generator).softmax(1)
    return images, Labels(target=target, weight=torch.rand(rows, generator=generator) + 0.1)


def test_images_and_labels_are_those_of_a_loop() -> None:
    images, labels = batch()
    drawn = draw_mix(BOTH, seed=3, step=7, rows=range(16), side=SIDE)
    mixed, found = mix_images(images, drawn), mix_labels(labels, drawn)
    assert labels.target is not None
    assert found.target is not None
    kinds = set()
    for row in range(16):
        other, own = row ^ 1, float(drawn.own[row])
        top, left, bottom, right = drawn.boxes[row].tolist()
        expected = images[row].clone()
        if bottom > top:
            kinds.add("cutmix")
            for y in range(top, bottom):
                for x in range(left, right):
                    expected[:, y, x] = images[other, :, y, x]
            assert own == pytest.approx(1 - (bottom - top) * (right - left) / SIDE**2)
        elif own < 1:
            kinds.add("mixup")
            expected = own * images[row] + (1 - own) * images[other]
        else:
            kinds.add("none")
        torch.testing.assert_close(mixed[row], expected)
        weight = own * labels.weight[row] + (1 - own) * labels.weight[other]
        shares = own * labels.weight[row] * labels.target[row] + (1 - own) * labels.weight[other] * labels.target[other]
        torch.testing.assert_close(found.weight[row], weight)
        torch.testing.assert_close(found.target[row] * weight, shares)
    assert kinds == {"cutmix", "mixup", "none"}
    torch.testing.assert_close(found.target.sum(1), torch.ones(16))


def test_equal_weights_stay_equal_and_labels_may_be_absent() -> None:
    drawn = draw_mix(BOTH, seed=3, step=7, rows=range(16), side=SIDE)
    found = mix_labels(Labels(target=None, weight=torch.ones(16)), drawn)
    assert found.target is None
    torch.testing.assert_close(found.weight, torch.ones(16))


def test_a_photograph_that_could_not_be_read_gives_no_label() -> None:
    labels = Labels(target=torch.eye(2), weight=torch.tensor([1.0, 0.0]))
    drawn = draw_mix(MixImagesConfig(mixup=1.0), seed=0, step=0, rows=range(2), side=SIDE)
    found = mix_labels(labels, drawn)
    assert found.target is not None
    torch.testing.assert_close(found.target[0], labels.target[0])  # type: ignore[index]
    torch.testing.assert_close(found.target[1], labels.target[0])  # type: ignore[index]


def test_any_slice_of_a_batch_draws_the_same() -> None:
    whole = draw_mix(BOTH, seed=1, step=5, rows=range(32), side=SIDE)
    for first in range(0, 32, 8):
        part = draw_mix(BOTH, seed=1, step=5, rows=range(first, first + 8), side=SIDE)
        np.testing.assert_array_equal(part.own, whole.own[first : first + 8])
        np.testing.assert_array_equal(part.boxes, whole.boxes[first : first + 8])
    for seed, step in ((2, 5), (1, 6)):
        assert (draw_mix(BOTH, seed=seed, step=step, rows=range(32), side=SIDE).own != whole.own).any()


def test_shares_have_their_distributions() -> None:
    drawn = draw_mix(BOTH, seed=0, step=0, rows=range(20_000), side=1000)
    pasted = drawn.boxes[:, 2] > drawn.boxes[:, 0]
    blended = ~pasted & (drawn.own < 1)
    assert pasted.mean() == pytest.approx(0.4, abs=0.015)
    assert blended.mean() == pytest.approx(0.4, abs=0.015)
    assert stats.kstest(drawn.own[blended], stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    # Boxes that lie inside whole have the drawn area, which is uniform for alpha 1: so are they, but for the edges.
    height, width = (drawn.boxes[pasted, 2 + axis] - drawn.boxes[pasted, axis] for axis in (0, 1))
    assert drawn.boxes.min() == 0
    assert drawn.boxes.max() == 1000
    assert (np.minimum(height, width) < np.maximum(height, width) - 1).any()  # cut off at an edge


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"mixup": 0.6, "cutmix": 0.6}, "mix.mixup and mix.cutmix"),
        ({"mixup": -0.1}, "mix.mixup and mix.cutmix"),
        ({"mixup": float("nan")}, "mix.mixup and mix.cutmix"),
        ({"mixup": 0.1, "cutmix": float("nan")}, "mix.mixup and mix.cutmix"),
        ({"mixup_alpha": 0.0}, "mix.mixup_alpha"),
        ({"cutmix_alpha": float("nan")}, "mix.cutmix_alpha"),
    ],
)
def test_settings_that_are_none(settings: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        MixImagesConfig(**settings)
