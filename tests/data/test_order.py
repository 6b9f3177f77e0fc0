"""The order of samples: a permutation that only seed, epoch and shards decide, cut into global batches by a cursor."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.data.order import CursorSampler, Slices, epoch_order

shard_sizes = st.lists(st.integers(0, 12), min_size=1, max_size=10)
windows = st.integers(1, 12)


def order(counts: list[int], *, seed: int = 0, epoch: int = 0, window: int = 4) -> list[int]:
    return epoch_order(np.array(counts), seed=seed, epoch=epoch, window=window).tolist()


@given(counts=shard_sizes, window=windows, seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation(counts: list[int], window: int, seed: int, epoch: int) -> None:
    assert sorted(order(counts, seed=seed, epoch=epoch, window=window)) == list(range(sum(counts)))


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=10), window=windows, seed=st.integers(0, 99))
def test_samples_mix_among_as_many_shards_as_the_window_and_no_more(counts: list[int], window: int, seed: int) -> None:
    shard_of = np.repeat(np.arange(len(counts)), counts)
    found = shard_of[order(counts, seed=seed, window=window)].tolist()
    seen: set[int] = set()
    while found:
        # The window's shards are those of its samples: as many as fill up with the samples in front.
        pool = {found[0]}
        while len(set(found[: sum(counts[s] for s in pool)])) > len(pool):
            pool = set(found[: sum(counts[s] for s in pool)])
        length = sum(counts[s] for s in pool)
        assert len(pool) <= window
        assert not pool & seen
        assert set(found[:length]) == pool
        seen |= pool
        found = found[length:]


def test_seed_and_epoch_each_change_the_order() -> None:
    counts = [20, 20, 20]
    orders = {tuple(order(counts, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert order(counts, seed=2, epoch=1) == order(counts, seed=2, epoch=1)


def test_the_order_is_the_one_that_older_runs_were_begun_with() -> None:
    """A run that is continued by a newer Umbel must find its samples where they were."""
    assert order([3, 4, 5], seed=7, epoch=2, window=2) == PINNED


PINNED = [8, 0, 2, 1, 11, 10, 7, 9, 6, 5, 4, 3]


def test_shards_are_permuted_too() -> None:
    firsts = {order([5] * 8, epoch=epoch, window=1)[0] // 5 for epoch in range(40)}
    assert len(firsts) > 4


def test_an_order_without_samples_is_empty() -> None:
    assert order([0, 0]) == []


layouts = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))


def batches(world: int, accumulation: int, micro: int, *, first: int, last: int) -> list[list[int]]:
    """The cursors of each global batch, gathered over ranks and micro-steps."""
    ranks = [
        list(
            CursorSampler(
                Slices(micro_batch=micro, rank=r, world_size=world, accumulation=accumulation), first=first, last=last
            )
        )
        for r in range(world)
    ]
    steps = []
    for step in range(last - first):
        mine = slice(step * accumulation, (step + 1) * accumulation)
        steps.append([cursor for rank in ranks for micro_batch in rank[mine] for cursor in micro_batch])
    return steps


@given(layout=layouts, first=st.integers(0, 5), count=st.integers(0, 4))
def test_ranks_and_micro_steps_together_read_exactly_the_global_batch(
    layout: tuple[int, int, int], first: int, count: int
) -> None:
    world, accumulation, micro = layout
    size = world * accumulation * micro
    for number, found in enumerate(batches(*layout, first=first, last=first + count)):
        step = first + number
        assert sorted(found) == list(range(step * size, (step + 1) * size))


@given(layout=layouts)
def test_the_same_global_batch_is_read_whatever_the_layout(layout: tuple[int, int, int]) -> None:
    size = layout[0] * layout[1] * layout[2]
    alone = batches(1, 1, size, first=0, last=3)
    assert [sorted(found) for found in batches(*layout, first=0, last=3)] == alone


@given(world=st.integers(1, 4), micro=st.integers(1, 4))
def test_a_micro_steps_rows_are_contiguous_over_ranks(world: int, micro: int) -> None:
    """The coding rate sees micro-batch x ranks: these must be the same photographs as with one process."""
    for micro_step in range(3):
        rows = [
            list(Slices(micro_batch=micro, rank=r, world_size=world, accumulation=3).rows(micro_step))
            for r in range(world)
        ]
        first = micro_step * world * micro
        assert [row for of_rank in rows for row in of_rank] == list(range(first, first + world * micro))


@given(layout=layouts, at=st.integers(0, 6))
@settings(max_examples=50)
def test_resuming_at_a_step_gives_the_tail(layout: tuple[int, int, int], at: int) -> None:
    world, accumulation, micro = layout
    for rank in range(world):
        slices = Slices(micro_batch=micro, rank=rank, world_size=world, accumulation=accumulation)
        whole = CursorSampler(slices, first=0, last=6)
        tail = CursorSampler(slices, first=at, last=6)
        assert list(tail) == list(whole)[at * accumulation :]
        assert len(tail) == len(list(tail))


@pytest.mark.parametrize(("samples", "batch"), [(10, 4), (7, 7), (5, 3)])
def test_epochs_are_concatenated(samples: int, batch: int) -> None:
    """Cursors run on over an epoch's end: no sample is dropped and no batch is short."""
    cursors = [c for b in CursorSampler(Slices(micro_batch=batch), first=0, last=samples) for c in b]
    assert all(b - a == 1 for a, b in pairwise(cursors))
    epochs, positions = np.divmod(cursors, samples)
    for epoch in range(batch):
        assert sorted(positions[epochs == epoch].tolist()) == list(range(samples))
