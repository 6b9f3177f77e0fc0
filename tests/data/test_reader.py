"""Reading batches: every sample of an epoch once over ranks and workers, canvases and sizes true, bad slots filled."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from umbel.data import reader as reader_module
from umbel.data.batch import Batch, fill_slots, to_canvas
from umbel.data.decode import decode
from umbel.data.index import open_shards
from umbel.data.order import CursorSampler, Slices, epoch_order
from umbel.data.reader import ReaderConfig, ShardReader
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches

Foreign = Callable[..., Path]
Jpeg = Callable[..., bytes]
Tar = Callable[[Path, Mapping[str, bytes]], Path]


def same(batch: Batch) -> Batch:
    return batch


def dataset(folder: Path, *, seed: int = 0, canvas: int = 64, window: int = 2) -> TrainingDataset:
    return TrainingDataset(open_shards(str(folder)), seed=seed, canvas=canvas, window=window)


def batches(data: TrainingDataset, slices: Slices, *, first: int = 0, last: int, workers: int = 0) -> list[Batch]:
    sampler = CursorSampler(slices, first=first, last=last)
    with training_batches(data, sampler, collate=same, workers=workers, pin=False) as found:
        return list(found)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (3, 2)])
def test_an_epoch_is_every_sample_once_over_ranks_and_workers(
    workers: int, world: int, accumulation: int, foreign_shards: Foreign
) -> None:
    data = dataset(foreign_shards(shards=4, count=6))
    samples: list[int] = []
    for rank in range(world):
        slices = Slices(micro_batch=2, rank=rank, world_size=world, accumulation=accumulation)
        for batch in batches(data, slices, last=24 // slices.global_batch, workers=workers):
            samples += batch.sample.tolist()
    assert sorted(samples) == list(range(24))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(workers: int, foreign_shards: Foreign) -> None:
    data = dataset(foreign_shards())
    alone = batches(data, Slices(micro_batch=3), last=4)
    for one, other in zip(alone, batches(data, Slices(micro_batch=3), last=4, workers=workers), strict=True):
        assert torch.equal(one.canvas, other.canvas)
        assert torch.equal(one.size, other.size)
        for name in ("cursor", "epoch", "position", "sample", "label"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_a_batch_holds_the_photographs_of_its_order(foreign_shards: Foreign) -> None:
    data = dataset(foreign_shards(shards=3, count=5), seed=4)
    shards, plain = data.reader.shards, ShardReader(data.reader.shards)
    expected = epoch_order(np.array([5, 5, 5]), seed=4, epoch=0, window=2)
    for step, batch in enumerate(batches(data, Slices(micro_batch=5), last=3)):
        assert batch.sample.tolist() == expected[step * 5 : step * 5 + 5].tolist()
        assert batch.cursor.tolist() == batch.position.tolist() == list(range(step * 5, step * 5 + 5))
        for row, sample in enumerate(batch.sample):
            image = decode(plain.read(int(sample), "jpg"), canvas=64)
            assert batch.size[row].tolist() == list(image.shape[1:])
            assert torch.equal(batch.canvas[row, :, : image.shape[1], : image.shape[2]], image)
            assert batch.label[row] == int(shards.key(int(sample)).split("_")[1]) % 3


def test_a_batch_may_reach_over_an_epochs_end(foreign_shards: Foreign) -> None:
    data = dataset(foreign_shards(shards=2, count=5))
    found = batches(data, Slices(micro_batch=4), last=5)
    assert np.concatenate([batch.epoch for batch in found]).tolist() == [0] * 10 + [1] * 10
    samples = np.concatenate([batch.sample for batch in found])
    assert sorted(samples[:10]) == sorted(samples[10:]) == list(range(10))
    assert samples[:10].tolist() != samples[10:].tolist()


def test_resuming_reads_the_tail(foreign_shards: Foreign) -> None:
    folder = foreign_shards(shards=3, count=4)
    whole = batches(dataset(folder), Slices(micro_batch=5), last=6)
    tail = batches(dataset(folder), Slices(micro_batch=5), first=4, last=6, workers=2)
    for one, other in zip(whole[4:], tail, strict=True):
        assert torch.equal(one.canvas, other.canvas)
        assert one.sample.tolist() == other.sample.tolist()


def test_larger_photographs_are_shrunk_to_the_canvas_and_smaller_ones_left(
    tmp_path: Path, write_tar: Tar, jpeg: Jpeg
) -> None:
    members = {"a.jpg": jpeg(1, width=300, height=150), "b.jpg": jpeg(2, width=20, height=60)}
    write_tar(tmp_path / "train-000000.tar", members)
    (batch,) = batches(dataset(tmp_path, canvas=100), Slices(micro_batch=2), last=1)
    by_sample = dict(zip(batch.sample.tolist(), batch.size.tolist(), strict=True))
    assert by_sample == {0: [50, 100], 1: [60, 20]}
    assert batch.canvas.shape == (2, 3, 60, 100)
    for row, (height, width) in enumerate(batch.size.tolist()):
        assert not batch.canvas[row, :, height:].any()
        assert not batch.canvas[row, :, :, width:].any()


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_an_empty_slot_takes_the_good_one_before_it(good: list[bool]) -> None:
    images = [torch.full((3, 2, 2), n, dtype=torch.uint8) if ok else None for n, ok in enumerate(good)]
    found = [int(image[0, 0, 0]) for image in fill_slots(images)]
    numbers = [n for n, ok in enumerate(good) if ok]
    for slot, value in enumerate(found):
        before = [n for n in numbers if n <= slot]
        assert value == (before[-1] if before else numbers[0] if numbers else 128)


def bad_set(tmp_path: Path, write_tar: Tar, jpeg: Jpeg, bad: set[int], count: int = 8) -> TrainingDataset:
    content = {n: jpeg(n)[:90] if n in bad else jpeg(n, width=30 + n) for n in range(count)}
    write_tar(tmp_path / "train-000000.tar", {f"k{n}.jpg": c for n, c in content.items()})
    return dataset(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_photographs_are_named_and_move_nothing(workers: int, tmp_path: Path, write_tar: Tar, jpeg: Jpeg) -> None:
    bad = {1, 2, 6}
    data = bad_set(tmp_path, write_tar, jpeg, bad)
    expected = epoch_order(np.array([8]), seed=0, epoch=0, window=2).tolist()
    found = batches(data, Slices(micro_batch=4), last=2, workers=workers)
    assert [n for batch in found for n in batch.sample] == expected
    assert sorted(n for batch in found for n, _ in batch.bad) == sorted(bad)
    assert all(reason for batch in found for _, reason in batch.bad)
    for batch in found:
        samples = batch.sample.tolist()
        good = [n for n in samples if n not in bad]
        for slot, width in enumerate(batch.size[:, 1].tolist()):
            before = [n for n in samples[: slot + 1] if n not in bad]
            assert width == 30 + (before[-1] if before else good[0])


def test_a_batch_of_nothing_but_bad_photographs_is_grey(tmp_path: Path, write_tar: Tar, jpeg: Jpeg) -> None:
    (batch,) = batches(bad_set(tmp_path, write_tar, jpeg, {0, 1, 2}, 3), Slices(micro_batch=3), last=1)
    assert batch.canvas.unique().tolist() == [128]
    assert len(batch.bad) == 3
    assert batch.size.tolist() == [[16, 16]] * 3


def test_canvases_hold_images_of_many_sizes() -> None:
    images = [torch.full((3, h, w), 7, dtype=torch.uint8) for h, w in ((2, 5), (4, 1), (3, 3))]
    canvas, size = to_canvas(images)
    assert canvas.shape == (3, 3, 4, 5)
    assert size.tolist() == [[2, 5], [4, 1], [3, 3]]
    assert canvas.sum(dtype=torch.int64) == 7 * 3 * (10 + 4 + 9)


def test_more_shards_than_open_files(foreign_shards: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "OPEN_FILES", 3)
    folder = foreign_shards(shards=120, count=1)
    data = dataset(folder, window=50)
    found = batches(data, Slices(micro_batch=40), last=3)
    assert sorted(n for batch in found for n in batch.sample) == list(range(120))
    assert not any(batch.bad for batch in found)
    assert len(data.reader._open) <= 3
    shards = data.reader.shards
    for sample in (0, 60, 119, 0):
        assert data.reader.read(sample, "jpg") == ShardReader(shards).read(sample, "jpg")


def test_members_that_are_not_there_are_empty(foreign_shards: Foreign) -> None:
    reader = ShardReader(open_shards(str(foreign_shards())))
    assert reader.read(0, "txt") == reader.read(0, "json") == b""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"canvas": 8}, "reader.canvas must be at least 16, not 8"),
        ({"window": 0}, "reader.window must be at least 1"),
        ({"workers": -2}, "reader.workers must be at least -1"),
        ({"canvas": 10**9}, "reader.canvas must be at most 65535"),
        ({"cache_gib": float("inf")}, "reader.cache_gib must be positive and at most 1048576, not inf"),
        ({"cache_gib": 0.0}, "reader.cache_gib must be positive and at most 1048576, not 0"),
        ({"timeout": 0.0}, "reader.timeout must be positive"),
        ({"max_bad": 2.0}, "reader.max_bad is a share between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_named(values: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReaderConfig(**values)  # type: ignore[arg-type]


def test_the_flowers_are_read_whole(shared_data: Path) -> None:
    shards = open_shards(str(shared_data / "flowers" / "unlabeled-000006.tar"))
    data = TrainingDataset(shards, seed=0, canvas=96, window=8)
    found = batches(data, Slices(micro_batch=32), last=len(shards) // 32 + 1)
    assert {n for batch in found for n in batch.sample} == set(range(len(shards)))
    assert not any(batch.bad for batch in found)
    assert all(batch.canvas.shape[2] <= 96 and batch.canvas.shape[3] <= 96 for batch in found)
