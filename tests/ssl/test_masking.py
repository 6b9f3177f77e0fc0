"""Masks of the global views: how many, how large, of which blocks, and the same however the batch is sliced."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from umbel.random_stream import Purpose, stream
from umbel.ssl.masking import MaskConfig, block_mask, draw_masks

CONFIG = MaskConfig()
GRID = (14, 14)
PATCHES = GRID[0] * GRID[1]


def masks_of(
    rows: range,
    *,
    batch: int = 16,
    seed: int = 0,
    step: int = 0,
    config: MaskConfig = CONFIG,
    grid: tuple[int, int] = GRID,
) -> np.ndarray:
    return draw_masks(config, seed=seed, step=step, global_batch=batch, rows=rows, grid=grid)


def whole(batch: int = 16, **options: int) -> np.ndarray:
    return masks_of(range(batch), batch=batch, **options)


@pytest.mark.parametrize(("batch", "share"), [(1, 0.5), (3, 0.5), (16, 0.5), (5, 0.25), (4, 0.0), (4, 1.0)])
def test_the_stated_share_of_views_is_masked(batch: int, share: float) -> None:
    for step in range(20):
        masks = masks_of(range(batch), batch=batch, step=step, config=MaskConfig(views=share))
        assert masks.shape == (2 * batch, PATCHES)
        assert masks.any(1).sum() == math.floor(2 * batch * share)


def test_masked_views_spread_over_the_ratios() -> None:
    # The k-th masked view draws from the k-th of K slices: counts in order lie below their own slices' upper ends.
    batch, reached = 64, 0
    for step in range(4):
        counts = np.sort(whole(batch, step=step).sum(1))
        masked = counts[counts > 0]
        k = np.arange(batch)
        low, high = 0.1 + 0.4 * k / batch, 0.1 + 0.4 * (k + 1) / batch
        # A mask that falls short lowers the sorted counts, so the upper bound is strict and the lower one is not.
        assert (masked <= (PATCHES * high).astype(int)).all()
        reached += int((masked >= (PATCHES * low).astype(int) - 2).sum())
    assert reached >= 0.9 * 4 * batch


def test_the_ratio_within_a_slice_is_uniform_and_the_extremes_are_those_configured() -> None:
    # One masked view: its ratio runs over the whole range.
    counts = np.array([masks_of(range(1), batch=1, step=step).sum() for step in range(600)])
    assert counts.min() >= int(PATCHES * 0.1) - 2
    assert counts.max() <= int(PATCHES * 0.5)
    # Mean of a uniform ratio is 0.3; its deviation over 600 draws 0.0047.
    assert counts.mean() / PATCHES == pytest.approx(0.3, abs=0.015)
    shares = np.histogram(counts, bins=4, range=(PATCHES * 0.1 - 1, PATCHES * 0.5))[0] / 600
    assert shares == pytest.approx([0.25] * 4, abs=0.07)


def test_masked_views_stand_anywhere() -> None:
    # Each of 8 views is masked half of the time, whichever its size: deviation of a share of 400 is 0.025.
    masked = np.stack([whole(4, step=step).any(1) for step in range(400)])
    assert masked.mean(0) == pytest.approx([0.5] * 8, abs=0.1)
    largest = np.bincount([int(whole(4, step=step).sum(1).argmax()) for step in range(400)], minlength=8) / 400
    assert largest == pytest.approx([1 / 8] * 8, abs=0.07)


def test_one_ratio_gives_one_count() -> None:
    config = MaskConfig(ratio=(0.3, 0.3), views=1.0)
    counts = masks_of(range(100), batch=100, config=config).sum(1)
    assert counts.max() == int(PATCHES * 0.3)
    assert (counts == int(PATCHES * 0.3)).mean() > 0.8


def test_every_view_draws_its_own_blocks() -> None:
    # Of one ratio, so that only the blocks can differ, also between the two views of a photograph.
    masks = masks_of(range(50), batch=50, config=MaskConfig(ratio=(0.3, 0.3), views=1.0))
    assert len(np.unique(masks, axis=0)) == 100


def test_few_masks_fall_short_by_a_little_and_none_exceeds() -> None:
    # The spec says 7 % on a 14 x 14 grid: here 2 to 14 % of a thousand, over all ratios.
    generator = stream(0, 0, Purpose.MASKS)
    short = []
    for index in range(1000):
        wanted = int(PATCHES * (0.1 + 0.4 * (index + 0.5) / 1000))
        missing = wanted - int(block_mask(generator, GRID, wanted, CONFIG).sum())
        assert missing >= 0
        short.append(missing)
    missing = np.array(short)
    assert 0.02 < (missing > 0).mean() < 0.14
    assert missing.max() <= 5


@pytest.mark.parametrize("wanted", [0, 1, 2, 5, 19, 60, 98])
@pytest.mark.parametrize("grid", [(14, 14), (6, 6), (3, 9)])
def test_a_mask_never_exceeds_what_is_wanted(wanted: int, grid: tuple[int, int]) -> None:
    generator = stream(1, 0, Purpose.MASKS)
    for _ in range(50):
        mask = block_mask(generator, grid, wanted, CONFIG)
        assert mask.shape == grid
        assert mask.sum() <= wanted


def first_blocks(grid: tuple[int, int], wanted: int, count: int, config: MaskConfig = CONFIG) -> list[tuple[int, ...]]:
    """(top, left, height, width) of the masks that came out as one rectangle."""
    generator = stream(2, 0, Purpose.MASKS)
    blocks = []
    for _ in range(count):
        mask = block_mask(generator, grid, wanted, config)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
        if mask.sum() == height * width:
            blocks.append((int(rows[0]), int(columns[0]), height, width))
    return blocks


def test_blocks_are_smaller_than_the_grid_in_both_directions() -> None:
    # A 3 x 9 grid would take 3 x 1 and 3 x 2 blocks if full height were allowed.
    generator = stream(3, 0, Purpose.MASKS)
    for _ in range(300):
        mask = block_mask(generator, (3, 9), 4, CONFIG)
        assert mask.sum(0).max() < 3
    # Where no block fits there is no mask, and no endless loop.
    assert not block_mask(generator, (1, 8), 4, CONFIG).any()


def test_blocks_are_rectangles_of_every_aspect_and_place() -> None:
    # Four patches are one block: 2 x 2, 1 x 4, 4 x 1, or one of rounding.
    blocks = first_blocks(GRID, 4, 2000)
    assert {(h, w) for _, _, h, w in blocks} >= {(2, 2), (1, 4), (4, 1)}
    wide, high = sum(w > h for _, _, h, w in blocks), sum(h > w for _, _, h, w in blocks)
    assert wide == pytest.approx(high, rel=0.2)
    assert {top for top, *_ in blocks} == set(range(14)) == {left for _, left, *_ in blocks}


def test_aspect_stays_within_its_bounds() -> None:
    tall = MaskConfig(aspect=1.0, smallest_block=4)
    assert {(h, w) for _, _, h, w in first_blocks(GRID, 4, 100, tall)} == {(2, 2)}
    # A block of at most 30 patches with aspect 0.3 to 1/0.3 is at most sqrt(30 / 0.3) = 10 long.
    assert max(max(h, w) for _, _, h, w in first_blocks(GRID, 30, 1000)) <= 10


def reference_mask(drawn: random.Random, wanted: int) -> np.ndarray:
    """A 14 x 14 mask by the spec's words, patch by patch, from Python's own generator."""
    mask = np.zeros(GRID, dtype=bool)
    while mask.sum() < wanted:
        for _ in range(10):
            area = drawn.uniform(4, min(wanted - mask.sum(), PATCHES / 2))
            aspect = math.exp(drawn.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= 14 or width >= 14:
                continue
            top, left = drawn.randint(0, 14 - height), drawn.randint(0, 14 - width)
            block = [(i, j) for i in range(top, top + height) for j in range(left, left + width)]
            new = [place for place in block if not mask[place]]
            if 0 < len(new) <= wanted - mask.sum():
                for place in new:
                    mask[place] = True
                break
        else:
            return mask
    return mask


def edge_length(mask: np.ndarray) -> int:
    """Pairs of neighbors of which one is masked: few and large blocks have a short edge."""
    return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())


@pytest.mark.parametrize("wanted", [20, 60, 98])
def test_masks_are_distributed_as_the_specs_words_say(wanted: int) -> None:
    drawn, generator = random.Random(0), stream(4, 0, Purpose.MASKS)
    theirs = [reference_mask(drawn, wanted) for _ in range(1000)]
    ours = [block_mask(generator, GRID, wanted, CONFIG) for _ in range(1000)]
    for measure in (edge_length, np.sum):
        # Seeded: the p-value is what it is, and a thousandth is far from chance.
        assert stats.ks_2samp([measure(m) for m in theirs], [measure(m) for m in ours], method="asymp").pvalue > 0.001
    # Where the patches are: the deviation of a difference of two shares of 1000 is at most 0.022, over 196 places.
    assert np.abs(np.mean(theirs, axis=0) - np.mean(ours, axis=0)).max() < 0.09


def test_same_address_same_masks_and_every_part_counts() -> None:
    assert np.array_equal(whole(), whole())
    assert not np.array_equal(whole(), whole(seed=1))
    assert not np.array_equal(whole(), whole(step=1))


@pytest.mark.parametrize(("ranks", "accumulation"), [(2, 1), (1, 4), (2, 2), (16, 1)])
def test_slices_of_ranks_and_accumulation_are_the_whole_batch(ranks: int, accumulation: int) -> None:
    batch = 16
    everything = whole(batch).reshape(2, batch, PATCHES)
    micro = batch // ranks // accumulation
    for part in range(ranks * accumulation):
        rows = range(part * micro, (part + 1) * micro)
        part_masks = masks_of(rows, batch=batch).reshape(2, micro, PATCHES)
        assert np.array_equal(part_masks, everything[:, rows.start : rows.stop])


@pytest.mark.parametrize("values", [
    {"views": 1.5}, {"views": -0.1}, {"ratio": (0.5, 0.1)}, {"ratio": (0.1, 1.0)}, {"ratio": (-0.1, 0.5)},
    {"smallest_block": 0}, {"aspect": 0.0}, {"aspect": 1.5},
])  # fmt: skip
def test_impossible_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="masks"):
        MaskConfig(**values)  # type: ignore[arg-type]
