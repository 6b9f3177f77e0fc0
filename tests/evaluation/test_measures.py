"""Average precision at K: the hand examples, a plain loop, scikit-learn as the oracle, wrong input."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from umbel.evaluation import measures
from umbel.evaluation.measures import average_precision_at_k

EXAMPLE = np.array([[1, 0, 1, 1, 0, 0, 1, 0]], dtype=bool)
SAME_DISTANCE = [[0], [1, 2, 3], [4, 5]]
TIED = np.array([1, 0, 1, 1, 0, 1], dtype=bool)


@pytest.mark.parametrize(
    ("k", "denominator", "value"),
    [
        (8, "found", 0.747024),
        (8, "min", 0.747024),
        (8, "all", 0.747024),
        (99, "found", 0.747024),
        (4, "found", 0.805556),
        (4, "min", 0.604167),
        (4, "all", 0.604167),
        (2, "found", 1.0),
        (2, "min", 0.5),
        (2, "all", 0.25),
        (1, "all", 0.25),
    ],
)
def test_values_by_hand(k: int, denominator: Any, value: float) -> None:
    assert average_precision_at_k(EXAMPLE, k, denominator=denominator) == pytest.approx([value], abs=5e-7)


def test_found_is_the_default() -> None:
    assert average_precision_at_k(EXAMPLE, 4) == pytest.approx([0.805556], abs=5e-7)


def test_orders_of_equal_distances_by_hand() -> None:
    """Index order, and all orders within equal distances: expectation, best and worst."""
    orders = [list(itertools.chain(*parts)) for parts in itertools.product(*map(itertools.permutations, SAME_DISTANCE))]
    values = average_precision_at_k(np.stack([TIED[order] for order in orders]), 6)
    assert average_precision_at_k(TIED[None], 6) == pytest.approx([0.770833], abs=5e-7)
    assert values.mean() == pytest.approx(0.863889, abs=5e-7)
    assert (values.max(), values.min()) == pytest.approx((0.95, 0.770833), abs=5e-7)


def plain(row: list[bool], k: int, denominator: str) -> float:
    summed, found = 0.0, 0
    for rank, relevant in enumerate(row[:k], start=1):
        if relevant:
            found += 1
            summed += found / rank
    divisor = {"found": found, "min": min(k, sum(row)), "all": sum(row)}[denominator]
    return summed / divisor if divisor else 0.0


@pytest.mark.parametrize("denominator", ["found", "min", "all"])
@pytest.mark.parametrize("chunk", [1, 50, 1 << 22])
def test_equal_to_a_plain_loop(denominator: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "CHUNK", chunk)
    relevance = np.random.default_rng(0).random((40, 30)) < np.linspace(0, 0.5, 40)[:, None]
    for k in (1, 7, 30, 31):
        want = [plain(row, k, denominator) for row in relevance.tolist()]
        got = average_precision_at_k(relevance, k, denominator=denominator)
        np.testing.assert_allclose(got, want, rtol=1e-12)
        assert (got.shape, got.dtype) == ((40,), np.float64)


def test_the_whole_ranking_equals_scikit_learn() -> None:
    relevance = np.random.default_rng(0).random((20, 50)) < 0.3
    scores = -np.arange(50)
    want = [average_precision_score(row, scores) for row in relevance]
    np.testing.assert_allclose(average_precision_at_k(relevance, 50, denominator="all"), want)


@pytest.mark.parametrize("denominator", ["found", "min", "all"])
def test_zero_where_nothing_relevant_is_found(denominator: Any) -> None:
    relevance = np.array([[0, 0, 0], [0, 0, 1]], dtype=bool)
    assert average_precision_at_k(relevance, 2, denominator=denominator).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0)])
def test_nothing_to_rank(shape: tuple[int, int]) -> None:
    assert average_precision_at_k(np.zeros(shape, bool), 3).tolist() == [0] * shape[0]


def test_tensors_and_numbers_are_read_as_bool() -> None:
    want = average_precision_at_k(EXAMPLE, 5).tolist()
    assert average_precision_at_k(torch.from_numpy(EXAMPLE), 5).tolist() == want
    assert average_precision_at_k(EXAMPLE.astype(np.uint8) * 255, 5).tolist() == want


@pytest.mark.parametrize(
    ("relevance", "k", "denominator", "words"),
    [
        (EXAMPLE[0], 4, "found", r"shape \(Q, N\)"),
        (EXAMPLE, 0, "found", "k must be at least 1"),
        (EXAMPLE, 4, "mean", "found, min, all"),
    ],
)
def test_wrong_input_is_a_value_error(relevance: Any, k: int, denominator: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        average_precision_at_k(relevance, k, denominator=denominator)
