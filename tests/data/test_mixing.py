"""Mixed sets: shares as stated at every moment, exactly once in each pass of each set, one integer to resume from."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.data.index import ShardSet, open_shards
from umbel.data.mixing import MixConfig, mix_sets
from umbel.data.order import Mix, epoch_order
from umbel.data.training import TrainingDataset
from umbel.run import UserError

Foreign = Callable[..., Path]
weights = st.lists(st.integers(1, 50), min_size=1, max_size=5)


def mix(weights: list[int]) -> Mix:
    return Mix(shards=(1,) * len(weights), weights=tuple(weights), epoch=100)


@given(weights=weights, first=st.integers(0, 10**10), count=st.integers(1, 200))
def test_each_set_reads_its_own_places_one_after_the_other(weights: list[int], first: int, count: int) -> None:
    seen: dict[int, int] = {}
    for cursor in range(first, first + count):
        number, own = mix(weights).place(cursor)
        assert own == seen.get(number, own)
        seen[number] = own + 1
    for number, after in seen.items():
        assert abs(after - (first + count) * weights[number] / sum(weights)) < len(weights) + 1


@given(weights=weights, count=st.integers(0, 300))
def test_every_set_begins_at_its_first_place_and_leaves_none_out(weights: list[int], count: int) -> None:
    places = [mix(weights).place(cursor) for cursor in range(count)]
    read: Counter[int] = Counter()
    for number, own in places:
        assert own == read[number]
        read[number] += 1


def test_a_common_factor_of_the_weights_changes_nothing() -> None:
    for cursor in range(200):
        assert mix([1, 2, 4]).place(cursor) == mix([3, 6, 12]).place(cursor)


def test_one_set_alone_reads_at_the_cursor() -> None:
    assert [mix([7]).place(cursor) for cursor in (0, 5, 10**12)] == [(0, 0), (0, 5), (0, 10**12)]


@pytest.fixture
def sets(foreign_shards: Foreign) -> list[ShardSet]:
    """12, 5 and 3 samples."""
    folders = [
        foreign_shards(shards=3, count=4, folder="a"),
        foreign_shards(shards=1, count=5, folder="b", split="unlabeled"),
        foreign_shards(shards=3, count=1, folder="c", width=30),
    ]
    return [open_shards(str(folder)) for folder in folders]


def samples(shards: ShardSet, cursors: range, *, batch: int = 5) -> list[int]:
    data = TrainingDataset(shards, seed=3, canvas=64, window=2)
    found: list[int] = []
    for first in range(cursors.start, cursors.stop, batch):
        found += data.__getitems__(list(range(first, min(first + batch, cursors.stop)))).sample.tolist()
    return found


def test_every_pass_of_every_set_is_each_of_its_samples_once(sets: list[ShardSet]) -> None:
    mixed = mix_sets(sets, MixConfig(data=("b", "c"), weights=(0.5, 0.25)))
    found = samples(mixed, range(400))
    first = 0
    for part in sets:
        own = [sample - first for sample in found if first <= sample < first + len(part)]
        assert len(own) >= 3 * len(part)
        for start in range(0, len(own) - len(part) + 1, len(part)):
            assert sorted(own[start : start + len(part)]) == list(range(len(part)))
        first += len(part)


def test_samples_are_those_of_their_own_set(sets: list[ShardSet]) -> None:
    mixed = mix_sets(sets, MixConfig(data=("b", "c"), weights=(0.5, 0.25)))
    keys = [part.key(n) for part in sets for n in range(len(part))]
    assert [mixed.key(n) for n in range(len(mixed))] == keys
    data = TrainingDataset(mixed, seed=3, canvas=64, window=2)
    for number, part in enumerate(sets):
        first = sum(len(p) for p in sets[:number])
        counts = np.array([shard.count for shard in part.shards])
        order = epoch_order(counts, seed=3, epoch=0, window=2, set_number=number) + first
        cursors = [c for c in range(60) if mixed.mix.place(c)[0] == number][: len(part)]  # type: ignore[union-attr]
        assert [int(data.__getitems__([c]).sample[0]) for c in cursors] == order[: len(cursors)].tolist()


@given(at=st.integers(0, 90), batch=st.integers(1, 13))
@settings(max_examples=20, deadline=None)
def test_resuming_at_any_cursor_reads_on(at: int, batch: int, mixed_whole: tuple[ShardSet, list[int]]) -> None:
    mixed, whole = mixed_whole
    assert samples(mixed, range(at, 100), batch=batch) == whole[at:]


@pytest.fixture(scope="module")
def mixed_whole(
    tmp_path_factory: pytest.TempPathFactory, jpeg: Callable[..., bytes], write_tar: Callable[..., Path]
) -> tuple[ShardSet, list[int]]:
    parts = []
    for name, count in (("a", 7), ("b", 4)):
        folder = tmp_path_factory.mktemp(name)
        write_tar(folder / "train-000000.tar", {f"{name}{n}.jpg": jpeg(n) for n in range(count)})
        parts.append(open_shards(str(folder)))
    mixed = mix_sets(parts, MixConfig(data=("b",), weights=(0.7,)))
    return mixed, samples(mixed, range(100))


def test_an_epoch_is_the_stated_number_of_samples_or_one_pass_of_data(sets: list[ShardSet]) -> None:
    stated = mix_sets(sets, MixConfig(data=("b", "c"), weights=(0.5, 0.25), epoch=17))
    assert stated.epoch == 17
    batch = TrainingDataset(stated, seed=0, canvas=64, window=2).__getitems__([16, 17, 35])
    assert (batch.epoch.tolist(), batch.position.tolist()) == ([0, 1, 2], [16, 0, 1])
    passes = mix_sets(sets, MixConfig(data=("b", "c"), weights=(0.5, 0.25)))
    assert passes.epoch == 21  # 12 of DATA, 6 and 3
    assert [passes.mix.place(c)[0] for c in range(21)].count(0) == 12  # type: ignore[union-attr]


def test_the_epoch_and_its_passes_are_said(sets: list[ShardSet], capsys: pytest.CaptureFixture[str]) -> None:
    mix_sets(sets, MixConfig(data=("b", "c"), weights=(0.5, 0.25), epoch=42))
    said = capsys.readouterr().out
    assert "an epoch is 42 photographs" in said
    assert "57.1% of" in said
    assert "(2 passes)" in said


def test_labels_are_kept_where_the_classes_are_the_same_and_dropped_elsewhere(foreign_shards: Foreign) -> None:
    folders = [foreign_shards(folder=name) for name in ("a", "b", "c")]
    for folder in folders[:2]:
        (folder / "classes.txt").write_text("rosa\nsalvia\nviola\n")
    a, b, c = (open_shards(str(folder)) for folder in folders)
    config = MixConfig(data=("x",), weights=(1.0,))
    same, other = mix_sets([a, b], config), mix_sets([a, c], config)
    assert same.classes == ("rosa", "salvia", "viola")
    assert same.members["label"].tolist() == 2 * a.members["label"].tolist()
    assert other.classes == ()
    assert set(other.members["label"].tolist()) == {-1}
    assert set(a.members["label"].tolist()) == {0, 1, 2}


def test_a_set_without_samples_is_refused(sets: list[ShardSet]) -> None:
    empty = dataclasses.replace(sets[0], shards=(), members=sets[0].members[:0], keys=sets[0].keys[:0])
    with pytest.raises(UserError, match="without photographs"):
        mix_sets([sets[1], empty], MixConfig(data=("b",), weights=(1.0,)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": ("b",)}, "mix.weights must be as many as mix.data: 1, not 0"),
        ({"data": ("b",), "weights": (0.0,)}, "mix.weights must lie between 1e-06 and 1,000,000, not 0"),
        ({"data": ("b",), "weights": (float("inf"),)}, "mix.weights must lie between"),
        ({"data": ("b",), "weights": (float("nan"),)}, "mix.weights must lie between"),
        ({"data": ("b",), "weights": (1e300,)}, "mix.weights must lie between"),
        ({"data": ("b",), "weights": (1e-300,)}, "mix.weights must lie between"),
        ({"data": ("b",), "weights": (1.0,), "epoch": 10**23}, "mix.epoch must be at most 1,000,000,000,000, not 1"),
        ({"data": ("b",), "weights": (1.0,), "epoch": -1}, "mix.epoch must not be negative"),
        ({"epoch": 5}, "needs mix.data"),
    ],
)
def test_settings_that_make_no_mix_are_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MixConfig(**values)  # type: ignore[arg-type]


def test_the_bounds_of_weights_and_epochs_are_read(sets: list[ShardSet]) -> None:
    for weights, epoch in (((1e6, 1e6), 10**12), ((1e-6, 1e6), 0)):
        mixed = mix_sets(sets, MixConfig(data=("b", "c"), weights=weights, epoch=epoch))
        batch = TrainingDataset(mixed, seed=0, canvas=64, window=2).__getitems__([0, mixed.epoch, 10**12])
        assert not batch.bad
