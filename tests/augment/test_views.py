"""Views: the same for a photograph whatever batch it comes in, view-major, normalized, all different."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from umbel.augment.crops import crop
from umbel.augment.policy import POLICIES, apply_policy, words_of
from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig, contiguous_runs

SMALL = ViewsConfig(global_size=32, local_size=16, local_views=3)
# Eight photographs of their own sizes on canvases of one, at the end of epoch 4 (of 103 photographs) and after it.
SIZES = torch.tensor([[40, 56], [56, 40], [56, 56], [30, 56], [12, 56], [56, 33], [50, 50], [44, 21]])
EPOCH, POSITION = np.array([4, 4, 4, 5, 5, 5, 5, 5]), np.array([100, 101, 102, 0, 1, 2, 3, 4])
B = len(SIZES)
# Means of the five views of the eight photographs, view-major.
PINNED = [
    -0.082, -0.4257, 1.1072, 0.8137, 0.3289, 0.3917, 0.1953, 0.0158,
    -0.6962, 0.822, 0.3117, 0.3194, 1.1387, 0.0318, -0.1891, 0.8713,
    -0.6842, 0.3284, 0.1816, 0.5383, 0.4028, 0.5649, 0.0976, -0.2988,
    0.8967, 0.3194, 0.2545, -0.3546, -0.4735, 0.4298, 0.2534, -0.1703,
    0.4621, 0.9983, 0.8175, 0.7593, 0.0088, 0.3885, 1.1685, 0.5565,
]  # fmt: skip


def canvases(padding: int = 0) -> Tensor:
    """(B, 3, 56, 56): noise where the photograph is, `padding` beyond it."""
    generator = torch.Generator().manual_seed(0)
    canvas = torch.full((B, 3, 56, 56), padding, dtype=torch.uint8)
    for image, (height, width) in zip(canvas, SIZES.tolist(), strict=True):
        image[:, :height, :width] = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return canvas


def make_views(config: ViewsConfig = SMALL, seed: int = 0) -> Views:
    return Views(config, seed=seed, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=torch.device("cpu"))


def by_view(config: ViewsConfig = SMALL, rows: list[int] | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(2, n, 3, S, S) and (L, n, 3, s, s) of some of the photographs, in the order given."""
    rows = list(range(B)) if rows is None else rows
    globals_, locals_ = make_views(config, seed)(canvases()[rows], SIZES[rows], EPOCH[rows], POSITION[rows])
    return globals_.unflatten(0, (2, len(rows))), locals_.unflatten(0, (config.local_views, len(rows)))


@pytest.mark.parametrize("split", [
    [[0, 1, 2, 3], [4, 5, 6, 7]],
    [[0], [1, 2], [3, 4, 5], [6, 7]],
    [[i] for i in range(8)],
    [[7, 6, 5, 4, 3, 2, 1, 0]],
    [[3, 0, 6], [5, 1], [7, 2, 4]],
])  # fmt: skip
@pytest.mark.parametrize("policy", ["plant", "dinov2"])
def test_a_photographs_views_do_not_depend_on_its_batch(split: list[list[int]], policy: str) -> None:
    config = dataclasses.replace(SMALL, policy=policy)
    whole = by_view(config)
    for rows in split:
        for part, all_ in zip(by_view(config, rows), whole, strict=True):
            # A blur of several images is one convolution, which may sum in another order than that of one.
            torch.testing.assert_close(part, all_[:, rows], rtol=0, atol=0 if policy == "plant" else 1e-5)


@pytest.mark.parametrize("policy", ["plant", "dinov2"])
def test_views_are_the_crops_and_policy_of_their_own_draws_view_major(policy: str) -> None:
    views, canvas = make_views(dataclasses.replace(SMALL, policy=policy)), canvases()
    globals_, locals_ = views(canvas, SIZES, EPOCH, POSITION)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.4293, 0.4597, 0.3280), (0.2216, 0.2151, 0.2211)))
    for v in range(5):
        out, side = (globals_, 32) if v < 2 else (locals_, 16)
        for b in range(B):
            draw = views.draw(SIZES.numpy()[b : b + 1], EPOCH[b : b + 1], POSITION[b : b + 1], v)
            boxes, flip = torch.from_numpy(draw.boxes), torch.from_numpy(draw.flip)
            image = crop(canvas, torch.tensor([b]), boxes, flip, size=side)
            image = apply_policy(image, POLICIES[policy], draw.policy, np.array([v]))
            row = v * B + b if v < 2 else (v - 2) * B + b
            torch.testing.assert_close(out[row], (image[0] - mean) / std)


def test_what_is_drawn_for_the_plant_policy_stays_what_it_is() -> None:
    """Boxes, flips and parameters of a run that is continued by another version of Umbel."""
    views, digest = make_views(ViewsConfig(), seed=3), hashlib.sha256()
    size, epoch, position = np.array([[375, 500]] * 50), np.full(50, 4), np.arange(1000, 1050)
    for v in (0, 1, 2, 11):
        draw = views.draw(size, epoch, position, v)
        for values in (draw.boxes, draw.flip, draw.policy):
            digest.update(np.ascontiguousarray(values).tobytes())
    assert digest.hexdigest() == "e428d3597fb1828058ae0ca87d01d683f202ed8de5c77d66e92bb43a87a65eb9"


def test_what_the_plant_policy_makes_of_its_draws_stays_what_it_is() -> None:
    globals_, locals_ = make_views()(canvases(), SIZES, EPOCH, POSITION)
    # Means, which other processors' arithmetic moves by far less.
    found = torch.cat([globals_.mean((1, 2, 3)), locals_.mean((1, 2, 3))])
    expected = torch.tensor(PINNED)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_dinov2s_solarize_and_blur_are_of_their_views() -> None:
    n, views = 1500, make_views(ViewsConfig(policy="dinov2"))
    size, epoch, position = np.full((n, 2), 400), np.zeros(n, dtype=int), np.arange(n)
    for v, blur, solarize in ((0, 1.0, 0.0), (1, 0.1, 0.2), (2, 0.5, 0.0), (11, 0.5, 0.0)):
        draws = views.draw(size, epoch, position, v)
        words = [words_of(views.operations, draws.policy[i : i + 1], draws.view, 96) for i in range(n)]
        for name, share in (("jitter", 0.8), ("grayscale", 0.2), ("blur", blur), ("solarize", solarize)):
            found = sum(any(text.startswith(name) for text in each) for each in words) / n
            # The deviation of a share of 1500 is at most 0.013.
            assert found == pytest.approx(share, abs=0.04 if 0 < share < 1 else 0)


def test_layout_is_view_major() -> None:
    # Photographs of one color each, no policy: the color tells the photograph.
    canvas = (torch.arange(B, dtype=torch.uint8) * 20).view(B, 1, 1, 1).expand(B, 3, 56, 56).contiguous()
    views = make_views(ViewsConfig(global_size=32, local_size=16, local_views=3, policy="none"))
    whole = torch.full((B, 2), 56)
    for out in views(canvas, whole, EPOCH, POSITION):
        red = out[:, 0].mean((1, 2)) * 0.2216 + 0.4293
        photographs = (red * 255 / 20).round().long().tolist()
        assert photographs == list(range(B)) * (len(out) // B)


def test_normalized_as_the_statistics_say() -> None:
    assert INAT_PLANTAE_MEAN == (0.4293, 0.4597, 0.3280)
    assert INAT_PLANTAE_STD == (0.2216, 0.2151, 0.2211)
    levels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([(levels[:, c] - INAT_PLANTAE_MEAN[c]) / INAT_PLANTAE_STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(make_views().normalize(levels.clone()), expected)


def test_padding_of_the_canvas_is_never_seen() -> None:
    views = make_views()
    a, b = (views(canvases(padding), SIZES, EPOCH, POSITION) for padding in (0, 255))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_all_views_of_all_photographs_differ() -> None:
    whole = ViewsConfig(global_size=16, local_size=16, local_views=3)
    globals_, locals_ = by_view(whole)
    everything = torch.cat([globals_, locals_]).flatten(0, 1).flatten(1)
    distances = torch.cdist(everything, everything) + 1000 * torch.eye(len(everything))
    assert distances.min() > 1


def test_the_same_photograph_at_another_place_epoch_or_seed_has_other_views() -> None:
    views, canvas, size = make_views(), canvases()[:1], SIZES[:1]
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    outs = [views(canvas, size, np.array([e]), np.array([p]))[0] for e, p in places]
    outs.append(make_views(seed=1)(canvas, size, np.array([0]), np.array([0]))[0])
    for i in range(len(outs)):
        for j in range(i):
            assert not torch.allclose(outs[i], outs[j])


def test_boxes_and_flips_are_drawn_as_the_plant_configuration_says() -> None:
    n, views = 2000, make_views(ViewsConfig())
    size, epoch, position = np.full((n, 2), 400), np.zeros(n, dtype=int), np.arange(n)
    flips = []
    for v in range(12):
        draw = views.draw(size, epoch, position, v)
        share = draw.boxes[:, 2] * draw.boxes[:, 3] / 400**2
        # Rounded sides move an area by a hundredth at most.
        low, high = (0.4, 1.0) if v < 2 else (0.05, 0.4)
        assert low - 0.01 < share.min() < low + 0.02
        assert high - 0.05 < share.max() < high + 0.01
        assert draw.flip.mean() == pytest.approx(0.5, abs=0.04)
        flips.append(draw.flip)
    # Views flip independently: correlations of 2000 pairs deviate by 0.022.
    assert np.abs(np.corrcoef(flips) - np.eye(12)).max() < 0.1


def test_draws_for_boxes_flips_and_policy_do_not_overlap() -> None:
    # A photograph's box must not tell whether it is jittered: correlations of 4000 pairs deviate by 0.016.
    n, views = 4000, make_views()
    draw = views.draw(np.full((n, 2), 400), np.zeros(n, dtype=int), np.arange(n), 2)
    columns = np.concatenate([draw.boxes, draw.flip[:, None], draw.policy], axis=1).astype(float)
    found = np.corrcoef(columns.T)
    # Within a box, sides and places do depend on each other.
    assert np.abs(found[:4, 4:]).max() < 0.07
    assert np.abs(found[4:, 4:] - np.eye(len(found) - 4)).max() < 0.07


def test_defaults_are_the_plant_configuration() -> None:
    c = ViewsConfig()
    assert (c.global_size, c.local_size, c.local_views, c.flip, c.policy) == (224, 96, 10, 0.5, "plant")
    assert (c.global_area, c.local_area, c.aspect) == ((0.4, 1.0), (0.05, 0.4), (3 / 4, 4 / 3))


def test_no_local_views_are_an_empty_tensor() -> None:
    config = ViewsConfig(global_size=32, local_size=16, local_views=0)
    globals_, locals_ = make_views(config)(canvases(), SIZES, EPOCH, POSITION)
    assert globals_.shape == (2 * B, 3, 32, 32)
    assert locals_.shape == (0, 3, 16, 16)
    # The global views are the same with and without local ones.
    assert torch.equal(globals_, make_views()(canvases(), SIZES, EPOCH, POSITION)[0])


def test_canvases_are_not_written_to() -> None:
    canvas = canvases()
    make_views()(canvas, SIZES, EPOCH, POSITION)
    assert torch.equal(canvas, canvases())


def test_runs_end_where_the_epoch_or_the_positions_do() -> None:
    assert contiguous_runs(EPOCH, POSITION) == [(4, 100, 3), (5, 0, 5)]
    assert contiguous_runs(np.array([0, 0, 0]), np.array([5, 7, 8])) == [(0, 5, 1), (0, 7, 2)]
    # An epoch of one photograph: its positions do not go up.
    assert contiguous_runs(np.array([0, 1, 2]), np.array([0, 0, 0])) == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]
    # One epoch ends at the number at which the next goes on.
    assert contiguous_runs(np.array([0, 1]), np.array([0, 1])) == [(0, 0, 1), (1, 1, 1)]


@pytest.mark.parametrize("values", [
    {"policy": "animal"}, {"global_size": 3}, {"local_views": -1}, {"global_area": (0.5, 0.4)},
    {"local_area": (0.0, 0.4)}, {"global_area": (0.4, 1.1)}, {"aspect": (2.0, 1.0)}, {"flip": 1.5},
    {"policy": "dinov2", "local_size": 4}, {"policy": ({"name": "RandomBlur", "p": 1.0},)},
])  # fmt: skip
def test_impossible_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="views"):
        ViewsConfig(**values)
