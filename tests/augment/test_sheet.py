"""The sheet: genuine views in their places, the same boxes for every policy, captions that fit."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from umbel.augment import sheet
from umbel.augment.sheet import BAR, BLUE, FONT, GAP, INK, LINE, NAME, RED, SMALL, views_sheet
from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig


def views(policy: str, local_views: int = 4, side: int = 16) -> Views:
    config = ViewsConfig(global_size=side, local_size=side, local_views=local_views, policy=policy)
    return Views(config, seed=0, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=torch.device("cpu"))


def photograph(height: int = 60, width: int = 80, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def runs(picture: Image.Image, color: tuple[int, int, int], length: int) -> set[tuple[int, int]]:
    """Bars of a color beneath views of this width, as the left ends of their rows: (row, column)."""
    same = (np.asarray(picture) == color).all(2)
    edges = np.diff(np.pad(same.astype(int), ((0, 0), (1, 1))), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    found = {(int(y), int(x)) for (y, x), (_, end) in zip(starts, ends, strict=True) if end - x == length}
    # Edges of boxes on the photographs are thinner.
    return {(y, x) for y, x in found if any({(y - i + j, x) for j in range(BAR)} <= found for i in range(BAR))}


@pytest.mark.parametrize(("local_views", "columns"), [(0, 0), (1, 1), (3, 2), (10, 5)])
def test_one_policy_has_local_views_in_two_lines(local_views: int, columns: int) -> None:
    picture = views_sheet([photograph(), photograph(80, 60, 1)], {"none": views("none", local_views)})
    # Captions of one line.
    side = 2 * (SMALL + BAR) + LINE + GAP - BAR
    bars = runs(picture, BLUE, SMALL)
    assert len({x for _, x in bars}) == columns
    assert len(bars) == 2 * local_views * BAR
    assert len(runs(picture, RED, side)) == 2 * 2 * BAR
    wide = round(80 * side / 60)
    assert picture.width == wide + GAP + 2 * (side + GAP) + columns * (SMALL + GAP) + 2 * GAP
    # The last bars of a photograph's global and lower local views end on one line.
    if local_views > 1:
        assert max(y for y, _ in bars) == max(y for y, _ in runs(picture, RED, side))


def test_several_policies_have_a_line_each() -> None:
    pictures = [photograph(), photograph(80, 60, 1), photograph(50, 50, 2)]
    picture = views_sheet(pictures, {name: views(name) for name in ("plant", "dinov2", "none")})
    local, global_ = runs(picture, BLUE, SMALL), runs(picture, RED, SMALL)
    assert len(local) == 3 * 3 * 4 * BAR
    assert len(global_) == 3 * 3 * 2 * BAR
    # Columns of all photographs stand under each other, though their widths differ.
    assert len({x for _, x in local}) == 4
    assert len({x for _, x in global_}) == 2


def test_views_shown_are_those_of_position_0_of_an_epoch() -> None:
    source, maker = photograph(), views("plant", 1, SMALL)
    picture = np.asarray(views_sheet([source, source], {"plant": maker}))
    found = sorted(runs(Image.fromarray(picture), BLUE, SMALL))
    size = np.array([[60, 80]])
    for number, (bottom, left) in enumerate((found[0], found[BAR])):
        draws = maker.draw(size, np.array([number]), np.array([0]), 2)
        expected = maker.make(source[None], [draws], SMALL)[0].mul(255).round().permute(1, 2, 0)
        shown = picture[bottom - SMALL : bottom, left : left + SMALL]
        assert np.abs(shown - expected.numpy()).max() <= 1


def test_a_view_that_is_mirrored_says_so_and_one_that_nothing_was_done_to_too() -> None:
    size, maker = np.array([[60, 80]]), views("none")
    told = []
    for number in range(4):
        flips = [maker.draw(size, np.array([number]), np.array([0]), v).flip[0] for v in range(6)]
        words = [shown.words for shown in sheet._views(photograph(), number, maker)]
        assert words == [["mirrored"] if flip else ["as it is"] for flip in flips]
        told += words
    assert ["mirrored"] in told
    assert ["as it is"] in told


def test_policies_have_the_same_boxes_and_flips() -> None:
    # The boxes of all but position 0 depend on how many numbers a policy draws.
    size = np.array([[60, 80]])
    for number in range(3):
        draws = [views(p).draw(size, np.array([number]), np.array([0]), 3) for p in ("plant", "dinov2", "none")]
        assert all(np.array_equal(draws[0].boxes, d.boxes) and draws[0].flip == d.flip for d in draws)


def test_much_enlarged_pixels_stay_squares() -> None:
    maker = views("none", 1, 31)
    picture = np.asarray(views_sheet([photograph()], {"none": maker}))
    bottom, left = min(runs(Image.fromarray(picture), BLUE, SMALL))
    shown = picture[bottom - SMALL : bottom, left : left + SMALL]
    assert np.array_equal(shown, shown[::4, ::4].repeat(4, 0).repeat(4, 1))


def test_captions_stay_within_their_views_and_are_told_whole() -> None:
    texts = ["jitter b1.20 c0.91 s1.11 h+0.03 order bsch", "posterize 4 bits", "affine -10.0° 22,-22 px"]
    for width in (90, 100, 110, SMALL, 200, 300):
        lines = sheet._lines(texts, width)
        assert all(FONT.getlength(line) <= width for line in lines)
        assert " ".join(lines) == " ".join(texts)
    assert sheet._lines(texts, 300) == texts
    assert sheet._lines(["unbreakable" * 9], 50) == ["unbreakable" * 9]


def test_captions_do_not_run_into_the_next_line_of_views() -> None:
    picture = views_sheet([photograph(seed=s) for s in range(3)], {p: views(p, 10) for p in ("plant", "dinov2")})
    pixels = np.asarray(picture)
    tops = sorted({y for y, _ in runs(picture, BLUE, SMALL)})[::BAR]
    # Right above a view stands nothing but its policy's name, at the left.
    for bar in tops:
        above = pixels[bar - SMALL - 3 : bar - SMALL]
        assert (above[:, -400:] == 255).all()
    assert FONT.size <= NAME
    assert (pixels.reshape(-1, 3) == INK).all(1).any()


def test_a_panorama_does_not_push_the_views_off() -> None:
    assert views_sheet([photograph(8, 900)], {"none": views("none")}).width < 2000
