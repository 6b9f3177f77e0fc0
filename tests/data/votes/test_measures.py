"""Measures against scikit-learn and by hand; what is unknown, missing or not valid."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score

from umbel.data.votes import aggregate
from umbel.data.votes.encoded import encode
from umbel.data.votes.measures import accuracy_against_kept, match_truth, measure, said_and_valid, subsets

ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(0, 3)), min_size=8, max_size=40)
TRUTH = st.dictionaries(st.integers(0, 11), st.integers(-1, 4), min_size=5)


def match(rows: list[Any], truth: dict[int, int]) -> Any:
    return match_truth(encode(*zip(*rows, strict=True)), pa.array(list(truth)), pa.array(list(truth.values())))


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, truth=TRUTH, strategy=st.sampled_from(["majority", "two-thirds", "plantnet"]))
def test_measures_are_scikit_learns(rows: list[Any], truth: dict[int, int], strategy: Any) -> None:
    found = aggregate(*zip(*rows, strict=True), strategy=strategy)
    votes = encode(*zip(*rows, strict=True))
    known = {i: k for i, k in truth.items() if k >= 0 and i in votes.observations}
    if not known:
        with pytest.raises(ValueError, match="no observation that has votes"):
            match(rows, truth)
        return
    matched = match(rows, truth)
    assert matched.unknown == sum(k >= 0 for k in truth.values()) - len(known)
    label = dict(zip(found.observation.tolist(), np.where(found.valid, found.label, -1).tolist(), strict=True))
    cast: dict[int, dict[int, int]] = {}
    for i, j, k in rows:
        cast.setdefault(i, {})[j] = k
    chosen = {
        "all": known,
        "2 votes or more": {i: k for i, k in known.items() if len(cast[i]) >= 2},
        "disagreement": {i: k for i, k in known.items() if len(set(cast[i].values())) >= 2},
    }
    for name, mask in subsets(votes, matched).items():
        told = measure(found, matched, mask)
        expected = chosen[name]
        assert told.observations == len(expected)
        if not expected:
            assert np.isnan([told.accuracy, told.kept, told.recall]).all()
            continue
        said, real = [label[i] for i in expected], list(expected.values())
        species = sorted(set(real))
        more: Any = {"labels": species, "average": "macro", "zero_division": 0}
        assert told.accuracy == pytest.approx(np.mean(np.equal(said, real)))
        assert told.precision == pytest.approx(precision_score(real, said, **more))
        assert told.recall == pytest.approx(recall_score(real, said, **more))
        valid = [k >= 0 for k in said]
        assert told.kept == pytest.approx(np.mean(valid))
        assert told.species_kept == pytest.approx(np.mean([k in said for k in species]))
        if any(valid):
            assert told.accuracy_of_valid == pytest.approx(np.mean(np.equal(said, real)[valid]))
        else:
            assert np.isnan(told.accuracy_of_valid)


def test_accuracy_against_share_kept_goes_from_the_surest_to_all_that_have_a_label() -> None:
    rows = [(0, j, 0) for j in range(3)] + [(1, j, 1) for j in range(2)] + [(2, j, 9) for j in range(2)]
    rows += [(3, 0, 3), (4, 0, 4), (4, 1, 5)]
    truth = dict(enumerate(range(5)))
    kept, accuracy = accuracy_against_kept(aggregate(*zip(*rows, strict=True), strategy="majority"), match(rows, truth))
    np.testing.assert_allclose(kept, [0.2, 0.6, 1.0])
    np.testing.assert_allclose(accuracy, [1.0, 2 / 3, 4 / 5])
    kept, accuracy = accuracy_against_kept(
        aggregate(*zip(*rows, strict=True), strategy="two-thirds"), match(rows, truth)
    )
    np.testing.assert_allclose(kept, [0.2, 0.6])
    np.testing.assert_allclose(accuracy, [1.0, 2 / 3])


def test_a_truth_that_nobody_named_is_missed_and_a_label_outside_the_truth_is_wrong() -> None:
    rows = [(0, 0, "Rosa"), (1, 0, "Salvia")]
    votes = encode(*zip(*rows, strict=True))
    truth = match_truth(votes, pa.array([0, 1]), pa.array(["Rosa", "Thymus"]))
    found = aggregate(*zip(*rows, strict=True), strategy="majority")
    said, valid = said_and_valid(found, truth)
    assert (said.tolist(), valid.tolist()) == ([0, -1], [True, True])
    told = measure(found, truth, np.array([True, True]))
    assert (told.accuracy, told.kept, told.species_kept, told.recall) == (0.5, 1.0, 0.5, 0.5)


def test_a_missing_truth_is_none_and_two_are_refused() -> None:
    votes = encode([0, 1], [0, 0], [5, 5])
    assert match_truth(votes, pa.array([0, 1]), pa.array([5, None])).row.tolist() == [0]
    with pytest.raises(ValueError, match="observation 1 has more than one true species"):
        match_truth(votes, pa.array([1, 1]), pa.array([5, 5]))
