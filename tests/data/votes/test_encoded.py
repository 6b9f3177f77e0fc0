"""Ids as codes, repeated votes, authors."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.data.votes import aggregate
from umbel.data.votes.encoded import encode, with_authors
from umbel.data.votes.ids import factorize, numbers_where_whole, ordered, places

NUMBERS = st.lists(st.integers(0, 40) | st.integers(0, 2**62), max_size=30)
TEXT = st.lists(st.text("ab0é", max_size=3), max_size=30)


@given(ids=NUMBERS | TEXT)
def test_codes_are_places_among_the_sorted_ids(ids: list[Any]) -> None:
    values, codes = factorize(np.array(ids, dtype=object if ids and isinstance(ids[0], str) else np.int64), "user")
    assert values.tolist() == sorted(set(ids))
    assert [values[code] for code in codes] == ids


@given(ids=TEXT)
def test_columns_of_text_are_encoded_the_same_in_every_layout(ids: list[str]) -> None:
    plain = pa.array(ids, pa.string())
    half = len(ids) // 2
    layouts = [
        plain,
        plain.dictionary_encode(),
        pa.chunked_array([plain[:half], plain[half:]]),
        pa.chunked_array([plain[:half].dictionary_encode(), plain[half:].dictionary_encode()]),
        plain.cast(pa.large_string()),
    ]
    for layout in layouts:
        values, codes = factorize(layout, "user")
        assert values.tolist() == sorted(set(ids))
        assert [values[code] for code in codes] == ids


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1.5], "whole numbers or text, not float64"),
        ([True], "whole numbers or text, not bool"),
        ([[1, 2]], "must be of shape (V,), not (1, 2)"),
        ([3, -1], "must not be negative, but -1 is there"),
        (np.array(["a", None], dtype=object), "1 user ids are missing"),
        (np.array(["a", 1], dtype=object), "all whole numbers or all text"),
        (np.array([2**63], dtype=np.uint64), "below 2**63"),
        (pa.array([1.0]), "whole numbers or text, not double"),
    ],
    ids=str,
)
def test_ids_of_a_wrong_kind_are_refused(ids: Any, words: str) -> None:
    with pytest.raises(ValueError) as error:
        factorize(ids, "user")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (["9", "10", "0"], [9, 10, 0]),
        (["9", "-1"], [9, -1]),
        (["9", "010"], ["9", "010"]),
        (["9", "+1"], ["9", "+1"]),
        (["9", "1e3"], ["9", "1e3"]),
        (["9", "-0"], ["9", "-0"]),
        (["9", "9" * 19], ["9", "9" * 19]),
        (["9", ""], ["9", ""]),
    ],
)
def test_text_becomes_numbers_only_where_nothing_is_lost(text: list[str], expected: list[Any]) -> None:
    for column in (pa.array(text), pa.chunked_array([pa.array([part]).dictionary_encode() for part in text])):
        assert numbers_where_whole(column).to_pylist() == expected


@given(ids=st.lists(st.integers(0, 20) | st.none()), among=st.sets(st.integers(0, 20)))
def test_places_meet_as_text_where_kinds_differ(ids: list[int | None], among: set[int]) -> None:
    expected = [-1 if i is None or i not in among else sorted(among).index(i) for i in ids]
    numbers = np.array(sorted(among), dtype=np.int64)
    assert places(pa.array(ids, pa.int64()), numbers).tolist() == expected
    words = np.array(sorted(map(str, among)), dtype=object)
    by_text = [-1 if i is None or i not in among else words.tolist().index(str(i)) for i in ids]
    assert places(pa.array(ids, pa.int64()), words).tolist() == by_text
    assert places(pa.array([None if i is None else str(i) for i in ids], pa.string()), numbers).tolist() == expected


@given(keys=st.lists(st.integers(0, 50)))
def test_both_ways_of_ordering_are_stable(keys: list[int]) -> None:
    expected = sorted(range(len(keys)), key=keys.__getitem__)
    for bound in (51, 1 << 62):  # above, a key and a position no longer fit into one number
        order, in_order = ordered(np.array(keys, dtype=np.int64), bound)
        assert order.tolist() == expected
        assert in_order.tolist() == sorted(keys)


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=40)


@given(rows=ROWS, repeated=st.sampled_from(["last", "first"]))
def test_one_vote_of_each_user_on_each_observation_counts(rows: list[Any], repeated: Any) -> None:
    table: dict[tuple[int, int], int] = {}
    for i, j, k in rows:
        if repeated == "last" or (i, j) not in table:
            table[i, j] = k  # a dictionary keeps the place of the first
    votes = encode(*zip(*rows, strict=True), repeated=repeated)
    kept = zip(
        votes.observations[votes.observation].tolist(),
        votes.users[votes.user].tolist(),
        votes.labels[votes.label].tolist(),
        strict=True,
    )
    assert list(kept) == sorted(((i, j, k) for (i, j), k in table.items()), key=lambda row: row[0])
    assert votes.labels.tolist() == sorted(set(table.values()))
    assert votes.counts.get("repeated votes of a user on an observation", 0) == len(rows) - len(table)


def test_repeated_votes_can_be_refused() -> None:
    with pytest.raises(ValueError, match="repeated must be one of last, first, refuse, not 'all'"):
        encode([1], [1], [1], repeated="all")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="2 votes repeat a user on an observation, the first of them user c on observation 1"
    ):
        encode([1, 2, 2, 1, 1], ["a", "b", "b", "c", "c"], [0, 1, 1, 2, 3], repeated="refuse")


@pytest.mark.parametrize(
    ("columns", "words"),
    [(([], [], []), "there are no votes"), (([1], [1, 2], [1]), "must be of one length, not 1, 2, 1")],
)
def test_columns_that_are_no_votes_are_refused(columns: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        aggregate(*columns)


@pytest.mark.parametrize(
    "authors",
    [
        {7: 1, 99: 1, 3: 2},
        {"7": "1", "3": "2"},
        [2, 5, 1],
        np.array([2, -1, 1]),
        np.array(["2", None, "1"], dtype=object),
    ],
    ids=repr,
)
def test_authors_by_observation_or_in_their_order(authors: Any) -> None:
    votes = encode([7, 3, 5, 3], [1, 2, 1, 1], [0, 0, 0, 0], authors=authors)
    assert votes.observations.tolist() == [3, 5, 7]
    assert votes.author.tolist() == [1, -1, 0]
    assert votes.own.tolist() == [True, False, False, True]
    assert votes.counts["observations whose author is not known or never voted"] == 1
    assert votes.counts["authors of observations without votes"] == (99 in authors if isinstance(authors, dict) else 0)


def test_authors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one for each of the 3 distinct observations, in sorted order, not 2"):
        encode([7, 3, 5], [1, 2, 1], [0, 0, 0], authors=[1, 2])
    with pytest.raises(ValueError, match="ids must be whole numbers or text, not fractions"):
        encode([7, 3, 5], [1, 2, 1], [0, 0, 0], authors=[1.0, 2.0, float("nan")])
    with pytest.raises(ValueError, match="observation 3 has more than one author"):
        with_authors(encode([7, 3], [1, 2], [0, 0]), pa.array([3, 3]), pa.array([1, 2]))
