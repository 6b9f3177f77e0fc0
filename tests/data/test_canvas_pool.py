"""Memory that workers use again: a batch holds what it would hold in memory of its own, for as long as it is held."""

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from umbel.data.batch import Batch
from umbel.data.canvas_pool import PLACES, SHARE, canvas_pool
from umbel.data.index import ShardSet, open_shards
from umbel.data.order import CursorSampler, Slices
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches
from umbel.machine import device_memory

WriteTar = Callable[[Path, Mapping[str, bytes]], Path]
STEPS, BATCH = 24, 3


@pytest.fixture
def shards(tmp_path: Path, jpeg: Callable[..., bytes], write_tar: WriteTar) -> ShardSet:
    """Photographs of many sizes, so that an older canvas would show beside a smaller one."""
    sizes = [(40 + 9 * (n % 5), 60 - 7 * (n % 4)) for n in range(11)]
    members = {f"{n:02d}.jpg": jpeg(n, width=w, height=h) for n, (w, h) in enumerate(sizes)}
    write_tar(tmp_path / "train-000000.tar", members)
    return open_shards(str(tmp_path))


@contextmanager
def batches(shards: ShardSet, workers: int, canvas: int = 64) -> Iterator[tuple[TrainingDataset, Iterator[Batch]]]:
    dataset = TrainingDataset(shards, seed=0, canvas=canvas, window=1)
    sampler = CursorSampler(Slices(micro_batch=BATCH), first=0, last=STEPS)
    with training_batches(dataset, sampler, collate=as_it_is, workers=workers, pin=False) as found:
        yield dataset, found


def as_it_is(batch: Any) -> Any:
    return batch


def canvases(shards: ShardSet) -> list[torch.Tensor]:
    """What the batches hold, made in this process."""
    with batches(shards, 0) as (_, found):
        return [batch.canvas.clone() for batch in found]


def test_a_canvas_in_used_memory_is_as_in_new(shards: ShardSet) -> None:
    expected = canvases(shards)
    with batches(shards, 2) as (dataset, found):
        for number, batch in enumerate(found):
            assert torch.equal(batch.canvas, expected[number])
            assert batch.place is None
    assert dataset.pool is not None
    assert number == STEPS - 1


def test_memory_is_used_again_and_free_at_the_end(shards: ShardSet) -> None:
    addresses = set()
    with batches(shards, 1) as (dataset, found):
        for batch in found:
            addresses.add(batch.canvas.data_ptr())
        del batch
        gc.collect()
        assert dataset.pool is not None
        assert not dataset.pool.lent.any()
    assert 1 < len(addresses) <= PLACES < STEPS


def test_batches_that_are_kept_stay_as_they_are(shards: ShardSet) -> None:
    """More than there are places: the others take memory of their own."""
    expected = canvases(shards)
    with batches(shards, 1) as (_, found):
        kept = list(found)
    for batch, canvas in zip(kept, expected, strict=True):
        assert torch.equal(batch.canvas, canvas)
    assert len({batch.canvas.data_ptr() for batch in kept}) == STEPS


def test_a_part_of_a_canvas_keeps_its_memory(shards: ShardSet) -> None:
    expected = canvases(shards)
    with batches(shards, 1) as (_, found):
        first = next(found)
        corner = first.canvas[1, :, 5:20, 5:20]
        del first
        gc.collect()
        for _ in found:
            pass
    assert torch.equal(corner, expected[0][1, :, 5:20, 5:20])


def test_canvases_outlive_their_reader(shards: ShardSet) -> None:
    expected = canvases(shards)
    with batches(shards, 1) as (dataset, found):
        batch = next(found)
    del dataset, found
    gc.collect()
    assert torch.equal(batch.canvas, expected[0])


def test_a_batch_that_does_not_fit_takes_memory_of_its_own(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbel.data.workers.canvas_pool", lambda workers, batch, side: canvas_pool(workers, 1, 40))
    expected = canvases(shards)
    with batches(shards, 1) as (dataset, found):
        for canvas, batch in zip(expected, found, strict=True):
            assert torch.equal(batch.canvas, canvas)
        assert dataset.pool is not None
        assert not dataset.pool.lent.any()


def test_workers_that_are_not_forked_have_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    assert canvas_pool(0, 4, 64) is None
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    assert canvas_pool(2, 4, 64) is None


def test_a_pool_takes_a_share_of_the_memory_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    pool = canvas_pool(16, 256, 8192)
    assert pool is not None
    assert 0.9 * SHARE * device_memory("cpu") < pool.memory.size <= SHARE * device_memory("cpu")
    assert "data workers share places of" in capsys.readouterr().out
    small = canvas_pool(2, 3, 64)
    assert small is not None
    assert small.memory.shape == (2, PLACES, 3 * 3 * 64 * 64)
    assert not capsys.readouterr().out


def test_where_the_system_gives_no_memory_there_is_no_pool(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The share of the memory is raised to more than a process can address: the system's own refusal."""
    monkeypatch.setattr("umbel.data.canvas_pool.SHARE", 2.0**62 / device_memory("cpu"))
    assert canvas_pool(1, 2**20, 2**19) is None
    told = "data workers share no memory for canvases: the system gives none (Cannot allocate memory)."
    assert capsys.readouterr().out.count(told) == 1


def test_a_process_that_was_forked_frees_nothing(shards: ShardSet) -> None:
    with batches(shards, 1) as (dataset, found):
        for last in found:  # at the end the worker takes no more places
            held = [last]
        del last
        gc.collect()
        assert dataset.pool is not None
        assert dataset.pool.lent.sum() == 1
        child = multiprocessing.get_context("fork").Process(target=drop, args=(held,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert dataset.pool.lent.sum() == 1
        held.clear()
        gc.collect()
        assert not dataset.pool.lent.any()


def drop(held: list[Batch]) -> None:
    held.clear()
    gc.collect()


def test_batches_arrive_after_their_dataset_has_another_pool(shards: ShardSet) -> None:
    expected = canvases(shards)
    with batches(shards, 1) as (dataset, found):
        assert torch.equal(next(found).canvas, expected[0])
        sampler = CursorSampler(Slices(micro_batch=BATCH), first=0, last=STEPS)
        with training_batches(dataset, sampler, collate=as_it_is, workers=1, pin=False) as others:
            gc.collect()
            for row, (batch, other) in enumerate(zip(found, others, strict=False)):
                assert torch.equal(batch.canvas, expected[row + 1])
                assert torch.equal(other.canvas, expected[row])
