"""Converting in several processes: in order, a bounded way ahead, and a worker that dies ends in a sentence."""

import os
from collections.abc import Iterator

import pytest

from umbel.data.convert import AHEAD, BATCH, Result, convert_in_order
from umbel.data.make import PlantToSample
from umbel.run import UserError


def items(count: int, consumed: list[int]) -> Iterator[tuple[str, int]]:
    for number in range(count):
        consumed.append(number)
        yield f"shard{number % 3}", number


def test_results_come_in_the_order_of_the_items_whatever_the_number_of_processes() -> None:
    make = PlantToSample(seed=0, size=16, quality=90)
    one = list(convert_in_order(items(50, []), make, 1))
    assert [result.name for result in one] == [str(number) for number in range(50)]
    assert [result.shard for result in one] == [f"shard{number % 3}" for number in range(50)]
    assert list(convert_in_order(items(50, []), make, 3)) == one
    assert len({result.records for result in one}) == 50


def test_no_more_is_taken_than_can_wait_in_memory() -> None:
    consumed: list[int] = []
    results = convert_in_order(items(500, consumed), str, 2)
    assert next(results) == Result(shard="shard0", name="0", bad="0")
    assert len(consumed) == AHEAD * 2 * BATCH
    results.close()
    assert len(consumed) == AHEAD * 2 * BATCH


def test_in_one_process_nothing_is_taken_ahead() -> None:
    consumed: list[int] = []
    results = convert_in_order(items(500, consumed), str, 1)
    assert [next(results).bad for _ in range(3)] == ["0", "1", "2"]
    assert consumed == [0, 1, 2]


def test_a_worker_that_dies_ends_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"a worker process was ended from outside .* goes on where this one stopped"):
        list(convert_in_order(items(50, []), os._exit, 2))
