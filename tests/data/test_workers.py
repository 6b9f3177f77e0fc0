"""Data workers that are killed, stopped or stuck, and shards that cannot be read: an error that names the shard."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from umbel.data import unreadable
from umbel.data.batch import Batch
from umbel.data.index import open_shards
from umbel.data.order import CursorSampler, Slices, epoch_windows
from umbel.data.training import TrainingDataset
from umbel.data.unreadable import UnreadableShardError
from umbel.data.workers import training_batches
from umbel.run import TrainingError, UserError

Foreign = Callable[..., Path]
Jpeg = Callable[..., bytes]
Tar = Callable[[Path, Mapping[str, bytes]], Path]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreadable, "PAUSES", (0.01, 0.01, 0.01))


def same(batch: Batch) -> Batch:
    return batch


def dataset(folder: Path, **options: object) -> TrainingDataset:
    arguments = {"seed": 0, "canvas": 64, "window": 2} | options
    return TrainingDataset(open_shards(str(folder)), **arguments)  # type: ignore[arg-type]


def read(
    data: TrainingDataset, *, batch: int = 2, last: int = 4, workers: int = 0, timeout: float = 300
) -> list[Batch]:
    sampler = CursorSampler(Slices(micro_batch=batch), first=0, last=last)
    with training_batches(data, sampler, collate=same, workers=workers, pin=False, timeout=timeout) as found:
        return list(found)


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def disturb(folder: Path, number: signal.Signals, *, workers: int, timeout: float = 300, compute: bool = False) -> None:
    """Send a signal to a data worker behind the first batches, and read on or compute."""
    sampler = CursorSampler(Slices(micro_batch=1), first=0, last=10_000)
    before = set(children())
    try:
        with training_batches(
            dataset(folder), sampler, collate=same, workers=workers, pin=False, timeout=timeout
        ) as found:
            for _ in range(2 * workers):  # every worker has begun
                next(found)
            os.kill((set(children()) - before).pop(), number)
            for _ in range(1000) if compute else found:
                time.sleep(0.01 if compute else 0)
    finally:
        assert set(children()) <= before


def test_a_killed_worker_is_an_error_that_names_the_shard_it_was_at(foreign_shards: Foreign) -> None:
    with pytest.raises(TrainingError) as caught:
        disturb(foreign_shards(shards=1, count=30), signal.SIGKILL, workers=2)
    said = str(caught.value)
    assert "was ended by SIGKILL" in said
    assert "train-000000.tar (often for want of memory" in said


def test_a_worker_that_dies_while_the_step_computes_is_the_same_error(foreign_shards: Foreign) -> None:
    """torch raises in the middle of whatever runs, not where the next batch is asked for."""
    with pytest.raises(TrainingError, match=r"was ended by SIGBUS .*train-000000\.tar \(often for want of shared"):
        disturb(foreign_shards(shards=1, count=30), signal.SIGBUS, workers=1, compute=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_worker_is_an_error_after_the_timeout(workers: int, foreign_shards: Foreign) -> None:
    with pytest.raises(TrainingError, match=r"no sign of life for 0\.8 s .*train-000000\.tar"):
        disturb(foreign_shards(shards=1, count=30), signal.SIGSTOP, workers=workers, timeout=0.8)


def test_a_shard_that_never_answers_is_an_error_that_names_it(foreign_shards: Foreign) -> None:
    folder = foreign_shards(shards=4, count=2)
    data = dataset(folder)
    path = folder / "train-000002.tar"
    path.unlink()
    os.mkfifo(path)  # opening it waits for a writer that never comes
    with pytest.raises(TrainingError, match=r"while reading shard .*train-000002\.tar: its disk or network does not"):
        read(data, workers=2, timeout=1)


class Slow(TrainingDataset):
    """Each photograph takes longer than a poll, and is a sign of life."""

    def __getitems__(self, cursors: object) -> Batch:
        for _ in range(10):
            time.sleep(0.1)
            self.reader.progress(0)
        return super().__getitems__(cursors)  # type: ignore[arg-type]


def test_a_slow_worker_is_not_a_hung_one(foreign_shards: Foreign) -> None:
    data = Slow(open_shards(str(foreign_shards())), seed=0, canvas=64, window=2)
    assert len(read(data, last=2, workers=1, timeout=0.6)) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_takes_longer_than_the_timeout_accuses_nobody(workers: int, foreign_shards: Foreign) -> None:
    """Workers that have made what they may make ahead are silent and well."""
    sampler = CursorSampler(Slices(micro_batch=1), first=0, last=12)
    data = dataset(foreign_shards())
    with training_batches(data, sampler, collate=same, workers=workers, pin=False, timeout=0.4) as found:
        next(found)
        time.sleep(1.5)
        assert len(list(found)) == 11


def test_a_trainer_that_is_stopped_and_goes_on_accuses_nobody(foreign_shards: Foreign) -> None:
    """Ctrl-Z and fg: workers slept as long as their trainer did."""
    code = f"""
import os, sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from umbel.data.index import open_shards
from umbel.data.order import CursorSampler, Slices, epoch_windows
from test_workers import Slow, same
from umbel.data.workers import training_batches
data = Slow(open_shards({str(foreign_shards())!r}), seed=0, canvas=64, window=2)
sampler = CursorSampler(Slices(micro_batch=2), first=0, last=4)
with training_batches(data, sampler, collate=same, workers=1, pin=False, timeout=0.8) as found:
    for batch in found:
        print("batch", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "batch\n"
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(2.0)
    os.killpg(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.count("batch")) == (0, 3), err


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_users_keeps_its_one_sentence_on_the_way(workers: int, foreign_shards: Foreign) -> None:
    folder = foreign_shards(shards=4, count=2)
    data = dataset(folder)
    (folder / "train-000001.tar").unlink()
    with pytest.raises(UserError) as caught:
        read(data, workers=workers)
    said = str(caught.value)
    assert said.startswith(
        f"shard {folder / 'train-000001.tar'} cannot be read (No such file or directory; tried 4 times"
    )
    assert "\n" not in said
    assert "Traceback" not in said


def test_a_bug_in_a_worker_stays_a_bug(foreign_shards: Foreign) -> None:
    data = dataset(foreign_shards())
    sampler = CursorSampler(Slices(micro_batch=2), first=0, last=2)

    def broken(_: Batch) -> Batch:
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        training_batches(data, sampler, collate=broken, workers=1, pin=False) as found,
    ):
        next(found)


def cut(folder: Path, data: TrainingDataset, sample: int) -> None:
    with (folder / "train-000000.tar").open("rb+") as file:
        file.truncate(int(data.reader.shards.members["jpg_offset"][sample]) + 10)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_was_cut_off_after_opening_is_an_error(workers: int, foreign_shards: Foreign) -> None:
    folder = foreign_shards(shards=1, count=8)
    data = dataset(folder)
    cut(folder, data, 5)
    with pytest.raises(UserError, match=r"train-000000\.tar cannot be read \(it is shorter than its index tells"):
        read(data, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_or_it_is_skipped_and_its_samples_are_counted_and_the_order_stays(
    workers: int, foreign_shards: Foreign
) -> None:
    folder = foreign_shards(shards=4, count=2)
    whole = [n for batch in read(dataset(folder)) for n in batch.sample]
    data = dataset(folder, unreadable_shards="skip")
    (folder / "train-000001.tar").unlink()
    found = read(data, workers=workers)
    assert [n for batch in found for n in batch.sample] == whole
    assert sorted(n for batch in found for n, _ in batch.bad) == [2, 3]
    assert all("train-000001.tar cannot be read" in reason for batch in found for _, reason in batch.bad)
    for batch in found:
        assert [n in (2, 3) for n in batch.sample] == [label == -1 for label in batch.label]


def test_a_shard_that_comes_back_between_tries_is_read(
    foreign_shards: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign_shards(shards=1, count=4)
    data = dataset(folder)
    path = folder / "train-000000.tar"
    path.rename(folder / "away")
    pauses: list[float] = []

    def back(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            (folder / "away").rename(path)

    monkeypatch.setattr(unreadable.time, "sleep", back)
    (batch,) = read(data, batch=4, last=1)
    assert not batch.bad
    assert pauses == [0.01, 0.01]


def test_a_shard_that_was_replaced_is_opened_anew(foreign_shards: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = foreign_shards(shards=1, count=4)
    data = dataset(folder)
    path = folder / "train-000000.tar"
    content = path.read_bytes()
    expected = data.reader.read(3, "jpg")
    cut(folder, data, 1)

    def replace(_: float) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    monkeypatch.setattr(unreadable.time, "sleep", replace)
    assert data.reader.read(3, "jpg") == expected


def test_the_pauses_grow_and_end(foreign_shards: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    folder = foreign_shards(shards=1)
    data = dataset(folder)
    (folder / "train-000000.tar").unlink()
    pauses: list[float] = []
    monkeypatch.setattr(unreadable.time, "sleep", pauses.append)
    with pytest.raises(UnreadableShardError):
        data.reader.read(0, "jpg")
    assert pauses == sorted(pauses)
    assert len(pauses) == 3
    with pytest.raises(UnreadableShardError):
        data.reader.read(1, "jpg")
    assert len(pauses) == 3  # given up for as long as its window lasts
    data.reader.keep([])
    with pytest.raises(UnreadableShardError):
        data.reader.read(1, "jpg")
    assert len(pauses) == 6


def test_no_shards_but_the_windows_are_open(foreign_shards: Foreign) -> None:
    folder = foreign_shards(shards=6, count=2)
    data = dataset(folder)
    windows = epoch_windows(np.full(6, 2), seed=0, epoch=0, window=2)
    for position in range(12):
        data.__getitems__([position])
        assert set(opened(folder)) <= {f"train-{shard:06d}.tar" for shard in windows[position // 4]}
    del data
    assert opened(folder) == []


def opened(folder: Path) -> list[str]:
    """Names of the files in a folder that this process has open."""
    places = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    found = [Path(os.readlink(place)) for place in places if place.exists()]
    return [path.name for path in found if path.parent == folder]


def labeled(tmp_path: Path, write_tar: Tar, jpeg: Jpeg, **members: bytes) -> Path:
    content: dict[str, bytes] = {}
    for number in range(4):
        content |= {f"k{number}.jpg": jpeg(number), f"k{number}.cls": b"%d" % number}
    content |= {"k0.txt": "été".encode(), "k1.json": b'{"weight": 0.25}', "k2.json": b'{"source": "x"}'}
    write_tar(tmp_path / "train-000000.tar", content | members)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_weights_and_text_travel_when_asked_for(
    workers: int, tmp_path: Path, write_tar: Tar, jpeg: Jpeg
) -> None:
    folder = labeled(tmp_path, write_tar, jpeg, **{"k3.jpg": b"no photograph"})
    (batch,) = read(dataset(folder, weights=True, text=True), batch=4, last=1, workers=workers)
    by_sample = {int(n): row for row, n in enumerate(batch.sample)}
    order = [by_sample[n] for n in range(4)]
    assert batch.label[order].tolist() == [0, 1, 2, -1]
    assert batch.weight is not None
    assert batch.text is not None
    assert batch.weight[order].tolist() == [1.0, 0.25, 1.0, 0.0]
    assert batch.weight.dtype == np.float32
    assert [batch.text[row] for row in order] == ["été", "", "", ""]
    (plain,) = read(dataset(folder), batch=4, last=1, workers=workers)
    assert plain.weight is plain.text is None


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff"]
    + [b'{"weight": %s}' % weight for weight in (b'"heavy"', b"-1", b"null", b"1" + b"0" * 400, b"1e300", b"NaN")],
)
def test_a_weight_that_is_no_number_is_named(content: bytes, tmp_path: Path, write_tar: Tar, jpeg: Jpeg) -> None:
    folder = labeled(tmp_path, write_tar, jpeg, **{"k1.json": content})
    with pytest.raises(UserError, match=r"the weight in k1\.json is not a number"):
        read(dataset(folder, weights=True), batch=4, last=1)


def test_a_workers_canvas_is_already_in_shared_memory(foreign_shards: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no pool of canvases, they must not be copied either."""
    monkeypatch.setattr("umbel.data.workers.canvas_pool", lambda *_: None)
    (batch,) = read(dataset(foreign_shards()), last=1, workers=1)
    assert batch.canvas.is_shared()
    (alone,) = read(dataset(foreign_shards(folder="other")), last=1)
    assert torch.equal(batch.canvas, alone.canvas)


@pytest.mark.parametrize("kind", ["json", "txt"])
def test_a_shard_that_is_lost_between_a_photograph_and_what_stands_beside_it_is_skipped(
    kind: str, tmp_path: Path, write_tar: Tar, jpeg: Jpeg
) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"train-{shard:06d}.tar", {f"k{shard}.jpg": jpeg(shard), f"k{shard}.{kind}": b"{}"})
    settings = {"weights": kind == "json", "text": kind == "txt"}
    skipping, stopping = dataset(tmp_path, unreadable_shards="skip", **settings), dataset(tmp_path, **settings)
    with (tmp_path / "train-000001.tar").open("rb+") as file:
        file.truncate(int(skipping.reader.shards.members[f"{kind}_offset"][1]))
    (batch,) = read(skipping, batch=2, last=1)
    row = batch.sample.tolist().index(1)
    assert [sample for sample, _ in batch.bad] == [1]
    assert batch.label[row] == -1
    assert torch.equal(batch.canvas[0], batch.canvas[1])
    if batch.weight is not None:
        assert (batch.weight[row], batch.weight[1 - row]) == (0, 1)
    if batch.text is not None:
        assert (batch.text[row], batch.text[1 - row]) == ("", "{}")
    with pytest.raises(UserError, match=r"train-000001\.tar cannot be read"):
        read(stopping, batch=2, last=1)
