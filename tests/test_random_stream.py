"""Streams: addressed by purpose and place, independent of who draws and how many at a time."""

import itertools

import numpy as np
import pytest
from scipy import stats

from umbel.random_stream import Purpose, position_uniforms, stream


def test_same_address_same_numbers() -> None:
    assert np.array_equal(stream(1, 2, Purpose.VIEWS, view=3).random(9), stream(1, 2, Purpose.VIEWS, view=3).random(9))


def test_every_part_of_the_address_changes_the_numbers() -> None:
    addresses = itertools.product((0, 1), (0, 1), Purpose, (0, 1), (0, 100))
    drawn = {tuple(stream(s, e, p, view=v, block=b).random(4)) for s, e, p, v, b in addresses}
    assert len(drawn) == 2 * 2 * len(Purpose) * 2 * 2
    # Not one number is shared.
    assert len({number for numbers in drawn for number in numbers}) == 4 * len(drawn)


def test_seed_and_epoch_cannot_be_exchanged() -> None:
    assert not np.array_equal(stream(1, 2, Purpose.ORDER).random(4), stream(2, 1, Purpose.ORDER).random(4))


def test_a_block_is_four_numbers_further() -> None:
    # The arithmetic of position_uniforms hangs on this property of numpy's Philox.
    whole = stream(5, 6, Purpose.VIEWS).random(40)
    for block in range(10):
        assert np.array_equal(stream(5, 6, Purpose.VIEWS, block=block).random(4), whole[4 * block : 4 * block + 4])


@pytest.mark.parametrize("draws", [1, 3, 4, 5, 35])
def test_a_position_has_its_own_numbers(draws: int) -> None:
    def uniforms(first: int, count: int) -> np.ndarray:
        return position_uniforms(7, 3, Purpose.VIEWS, view=2, first=first, count=count, draws=draws)

    whole = uniforms(0, 20)
    assert whole.shape == (20, draws)
    assert np.array_equal(uniforms(11, 4), whole[11:15])
    assert np.array_equal(np.concatenate([uniforms(p, 1) for p in range(20)]), whole)
    # No two positions or draws share a number.
    assert len(np.unique(whole)) == whole.size


def test_positions_may_be_far() -> None:
    first = 2**40
    two = position_uniforms(0, 0, Purpose.VIEWS, view=0, first=first, count=2, draws=6)
    assert np.array_equal(position_uniforms(0, 0, Purpose.VIEWS, view=0, first=first + 1, count=1, draws=6)[0], two[1])


def test_numbers_are_uniform_and_views_uncorrelated() -> None:
    # Seeded, so the p-values are what they are; a hundredth is a generous bound for four of them.
    a, b = (position_uniforms(0, 0, Purpose.VIEWS, view=v, first=0, count=5000, draws=4) for v in (0, 1))
    assert a.min() >= 0
    assert a.max() < 1
    for column in range(4):
        assert stats.kstest(a[:, column], "uniform").pvalue > 0.01
    # The deviation of a correlation of 20000 pairs is 0.007.
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03
