"""Exactly once, whatever the shards, ranks, workers, batches and interruptions: properties of the whole reader."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from umbel.data.batch import Batch
from umbel.data.index import open_shards
from umbel.data.order import CursorSampler, Slices
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def same(batch: Batch) -> Batch:
    return batch


@pytest.fixture(scope="module")
def shards_of(tmp_path_factory: pytest.TempPathFactory, jpeg: Callable[..., bytes]) -> Callable[[list[int]], Path]:
    """Shards of the given sizes; every photograph is another one."""
    pictures = [jpeg(number, width=16 + number % 5, height=16) for number in range(60)]

    def write(sizes: list[int]) -> Path:
        folder = tmp_path_factory.mktemp("sizes")
        number = 0
        for shard, size in enumerate(sizes):
            with tarfile.open(folder / f"train-{shard:06d}.tar", "w") as tar:
                for _ in range(size):
                    member = tarfile.TarInfo(f"k{number:04d}.jpg")
                    member.size = len(pictures[number])
                    tar.addfile(member, io.BytesIO(pictures[number]))
                    number += 1
        return folder

    return write


def dataset(folder: Path, window: int) -> TrainingDataset:
    return TrainingDataset(open_shards(str(folder)), seed=1, canvas=16, window=window)


def read(
    folder: Path, window: int, *, micro: int, world: int, accumulation: int, workers: int, first: int, last: int
) -> dict[int, tuple[int, torch.Tensor]]:
    """What all ranks read of some steps: cursor -> (sample, pixels); a cursor that comes twice fails."""
    found: dict[int, tuple[int, torch.Tensor]] = {}
    for rank in range(world):
        slices = Slices(micro_batch=micro, rank=rank, world_size=world, accumulation=accumulation)
        sampler = CursorSampler(slices, first=first, last=last)
        with training_batches(dataset(folder, window), sampler, collate=same, workers=workers, pin=False) as batches:
            for batch in batches:
                for row, cursor in enumerate(batch.cursor.tolist()):
                    assert cursor not in found
                    height, width = batch.size[row].tolist()
                    found[cursor] = (int(batch.sample[row]), batch.canvas[row, :, :height, :width].clone())
    return found


def check(folder: Path, window: int, *, micro: int, world: int, accumulation: int, workers: int, stop: int) -> None:
    """Two epochs, stopped at a step and continued by another world size, against every sample read in plain order."""
    plain = dataset(folder, window)
    count, size = len(plain), micro * world * accumulation
    steps = -(-2 * count // size)
    stop = min(stop, steps)
    before = read(
        folder, window, micro=micro, world=world, accumulation=accumulation, workers=workers, first=0, last=stop
    )
    after = read(folder, window, micro=1, world=size, accumulation=1, workers=0, first=stop, last=steps)
    assert sorted([*before, *after]) == list(range(steps * size))
    found = before | after
    for epoch in range(2):
        assert sorted(found[epoch * count + position][0] for position in range(count)) == list(range(count))
    for cursor, (sample, pixels) in found.items():
        one = plain[cursor]
        assert one.sample.tolist() == [sample]
        assert torch.equal(one.canvas[0], pixels)


@given(
    sizes=sizes,
    window=st.integers(1, 7),
    micro=st.integers(1, 5),
    world=st.integers(1, 3),
    accumulation=st.integers(1, 2),
    stop=st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
@example(sizes=[40], window=8, micro=4, world=3, accumulation=1, stop=2)  # one huge shard
@example(sizes=[9, 9, 1], window=1, micro=5, world=2, accumulation=2, stop=1)  # a short last one
@example(sizes=[1], window=1, micro=3, world=2, accumulation=1, stop=0)  # a batch of many epochs
def test_two_epochs_are_each_sample_twice_over_ranks_and_interruptions(
    sizes: list[int],
    window: int,
    micro: int,
    world: int,
    accumulation: int,
    stop: int,
    shards_of: Callable[[list[int]], Path],
) -> None:
    check(shards_of(sizes), window, micro=micro, world=world, accumulation=accumulation, workers=0, stop=stop)


@given(sizes=sizes, micro=st.integers(1, 5), world=st.integers(1, 2), workers=st.integers(1, 3), stop=st.integers(0, 5))
@settings(max_examples=8, deadline=None)
@example(sizes=[30], micro=4, world=2, workers=2, stop=3)  # fewer shards than workers
@example(sizes=[2, 2], micro=1, world=1, workers=3, stop=1)
def test_and_over_workers(
    sizes: list[int],
    micro: int,
    world: int,
    workers: int,
    stop: int,
    shards_of: Callable[[list[int]], Path],
) -> None:
    check(shards_of(sizes), 2, micro=micro, world=world, accumulation=1, workers=workers, stop=stop)


def test_resuming_reads_nothing_that_was_consumed(
    shards_of: Callable[[list[int]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(shards_of([10, 10, 10, 10]), 2)
    whole = [int(data[cursor].sample[0]) for cursor in range(40)]
    asked: list[int] = []
    plain = data.reader.read
    monkeypatch.setattr(data.reader, "read", lambda sample, kind: asked.append(sample) or plain(sample, kind))
    sampler = CursorSampler(Slices(micro_batch=4), first=9, last=10)
    with training_batches(data, sampler, collate=same, workers=0, pin=False) as batches:
        (batch,) = batches
    assert asked == batch.sample.tolist() == whole[36:]


def test_an_epoch_of_a_million_samples_is_ordered_without_reading(tmp_path: Path) -> None:
    """The order of an epoch needs the shards' sizes alone, and its tail nothing of its head."""
    from umbel.data.order import epoch_order, epoch_windows

    counts = np.full(1100, 1000)
    order = epoch_order(counts, seed=0, epoch=0, window=8)
    assert np.array_equal(np.sort(order), np.arange(1_100_000))
    windows = epoch_windows(counts, seed=0, epoch=0, window=8)
    for at in (0, 70, 137):
        held = set((order[at * 8000 : (at + 1) * 8000] // 1000).tolist())
        assert held == set(windows[at].tolist())
