"""Which shard every item goes into: classes mixed, sizes even, the same however the items arrive."""

from collections.abc import Callable
from pathlib import Path

import pytest

from umbel.data.photograph_set import Photograph
from umbel.data.plan import SplitPlan, items_of, shuffled
from umbel.run import UserError

WriteTar = Callable[..., Path]


def photographs(count: int = 24) -> list[Photograph]:
    return [Photograph(path=f"{number * 3 // count}/{number}.jpg", key=f"k{number}") for number in range(count)]


def keys(rows: list[Photograph], seed: int) -> list[str]:
    return [rows[int(place)].key for place in shuffled(rows, seed)]


def test_shuffling_is_a_function_of_keys_and_seed() -> None:
    rows = photographs()
    assert keys(rows, 0) == keys(rows[::-1], 0)
    assert keys(rows, 0) != keys(rows, 1)
    assert sorted(keys(rows, 0)) == sorted(row.key for row in rows)
    assert len({rows[int(place)].path[0] for place in shuffled(rows, 0)[:8]}) == 3


def test_a_key_that_stands_twice_is_refused() -> None:
    rows = [*photographs(), Photograph(path="again.jpg", key="k7")]
    with pytest.raises(UserError, match=r"same key k7"):
        shuffled(rows, 0)


def plan_of(count: int, shard_size: int, **more: object) -> SplitPlan:
    rows = list(range(count))
    return SplitPlan(split="val", rows=rows, order=rows[::-1], shard_size=shard_size, **more)  # type: ignore[arg-type]


def test_shards_are_of_one_size_but_the_last() -> None:
    assert plan_of(7, 3).shards() == {"val-000000.tar": 3, "val-000001.tar": 3, "val-000002.tar": 1}
    assert plan_of(6, 3).shards() == {"val-000000.tar": 3, "val-000001.tar": 3}
    assert plan_of(0, 3).shards() == {}


def test_files_arrive_shard_after_shard() -> None:
    plan = plan_of(5, 2)
    assert list(plan.items()) == [
        ("val-000000.tar", 4),
        ("val-000000.tar", 3),
        ("val-000001.tar", 2),
        ("val-000001.tar", 1),
        ("val-000002.tar", 0),
    ]


@pytest.mark.parametrize("skip", range(9))
def test_the_first_items_may_be_skipped(skip: int) -> None:
    plan = [plan_of(5, 2), plan_of(3, 2)]
    assert list(items_of(plan, skip)) == list(items_of(plan, 0))[skip:]


@pytest.mark.parametrize("skip", range(25))
def test_out_of_an_archive_every_photograph_goes_where_its_file_would(
    skip: int, tmp_path: Path, write_tar: WriteTar
) -> None:
    rows = photographs()
    order = shuffled(rows, 3)
    archive = write_tar(tmp_path / "a.tar", {row.path: row.key.encode() for row in rows})
    streamed = SplitPlan(split="train", rows=rows, order=order, shard_size=5, archive=archive)
    files = SplitPlan(split="train", rows=rows, order=order, shard_size=5)
    expected = {item.key: shard for shard, item in files.items()}
    arrived = [(shard, item.key, item.content) for shard, item in streamed.items(skip)]
    assert arrived == [(expected[row.key], row.key, row.key.encode()) for row in rows[skip:]]
