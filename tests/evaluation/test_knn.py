"""k nearest neighbors: equal to a plain loop and scikit-learn, ties to the nearest, oneself never a neighbor."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from umbel.evaluation import knn
from umbel.evaluation.knn import Votes, neighbors, vote


def around(*degrees: float) -> np.ndarray:
    """Directions in the plane, of several lengths."""
    angles = np.radians(degrees)
    lengths = np.arange(1, len(degrees) + 1)[:, None]
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths


def plain(base: np.ndarray, labels: list[int], query: np.ndarray, k: int, temperature: float) -> tuple[int, int]:
    """Weighted and plain vote of one query."""
    cosine = [float(x @ query / (np.linalg.norm(x) * np.linalg.norm(query))) for x in base]
    near = sorted(range(len(base)), key=lambda row: -cosine[row])[:k]
    weighted: dict[int, float] = defaultdict(float)
    counted: dict[int, int] = defaultdict(int)
    for row in near:
        weighted[labels[row]] += math.exp(cosine[row] / temperature)
        counted[labels[row]] += 1
    # max takes the first of equals, and classes stand in order of their nearest neighbor.
    return max(weighted, key=weighted.__getitem__), max(counted, key=counted.__getitem__)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (4, 0.07), (20, 0.07), (20, 1.0), (500, 0.07)])
@pytest.mark.parametrize("chunk", [1, 900, 1 << 23])
def test_equal_to_a_plain_loop(k: int, temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "CHUNK", chunk)
    generator = np.random.default_rng(0)
    base, queries = generator.normal(size=(60, 5)), generator.normal(size=(30, 5))
    labels = generator.integers(0, 6, 60)
    votes = vote(base, labels, queries=queries, k=k, temperature=temperature)
    want = [plain(base, labels.tolist(), query, k, temperature) for query in queries]
    assert list(zip(votes.weighted.tolist(), votes.plain.tolist(), strict=True)) == want
    if k == 20:
        assert (votes.weighted != votes.plain).any()


@pytest.mark.parametrize("tile", [1, 40, 200, 1000])
@pytest.mark.parametrize("others", [True, False])
def test_tiles_and_groups_find_the_neighbors_that_a_whole_sort_finds(
    tile: int, others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "TILE", tile)
    monkeypatch.setattr(knn, "GROUP", 7)
    generator = np.random.default_rng(3)
    base, asked = generator.normal(size=(431, 5)), generator.normal(size=(23, 5))
    similarity, rows = neighbors(base, queries=asked if others else None, k=9)
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    cosine = asked / np.linalg.norm(asked, axis=1, keepdims=True) @ unit.T if others else unit @ unit.T
    if not others:
        np.fill_diagonal(cosine, -np.inf)
    assert rows.tolist() == np.argsort(-cosine, axis=1)[:, :9].tolist()
    np.testing.assert_allclose(similarity, -np.sort(-cosine, axis=1)[:, :9], atol=1e-6)


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_half_precision_finds_the_neighbors_of_single_precision(others: bool, offset: float) -> None:
    """With an offset all are so near to each other that bf16 tells few apart: these are searched again."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn((3000, 48), generator=generator) + offset
    asked = torch.randn((200, 48), generator=generator) + offset if others else None
    similarity, rows = neighbors(base, queries=asked, k=7, half=True)
    expected, its_rows = neighbors(base, queries=asked, k=7, half=False)
    assert similarity == pytest.approx(expected, abs=1e-6)
    assert (rows == its_rows).mean() > 0.999  # equal similarities may stand in either order
    if not others:
        assert (rows != np.arange(3000)[:, None]).all()
    unit = torch.nn.functional.normalize(base, dim=1)
    queries, own = (unit, torch.arange(3000)) if asked is None else (torch.nn.functional.normalize(asked, dim=1), None)
    _, found, open_ = knn._by_half(queries, unit, own, 7)
    assert (np.sort(found[~open_].numpy()) == np.sort(its_rows[~open_.numpy()])).all()
    assert open_.float().mean() > 0.9 if offset else open_.float().mean() < 0.5


def test_the_majority_equals_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    base, queries = generator.normal(size=(90, 8)), generator.normal(size=(50, 8))
    labels = generator.integers(0, 2, 90)
    oracle = KNeighborsClassifier(7, metric="cosine").fit(base, labels)
    assert vote(base, labels, queries=queries, k=7).plain.tolist() == oracle.predict(queries).tolist()


def test_among_equals_the_nearest_decides() -> None:
    base = around(10, 20, 30, 40)
    assert vote(base, [5, 2, 2, 5], queries=around(0), k=4).plain.tolist() == [5]
    assert vote(base, [2, 5, 5, 2], queries=around(0), k=4).plain.tolist() == [2]
    assert vote(base, [9, 2, 2, 5], queries=around(0), k=4).plain.tolist() == [2]


def test_the_weighted_vote_by_hand() -> None:
    """One near neighbor against two far ones: exp((1 - 0.5) / T) = 2 where T = 0.5 / ln 2."""
    base, labels = around(0, 60, -60), [1, 0, 0]
    threshold = 0.5 / math.log(2)
    cold, warm = (vote(base, labels, queries=around(0), k=3, temperature=threshold * t) for t in (0.99, 1.01))
    assert (cold.weighted.tolist(), warm.weighted.tolist()) == ([1], [0])
    assert cold.plain.tolist() == warm.plain.tolist() == [0]


@pytest.mark.parametrize("chunk", [1, 1 << 23])
def test_without_queries_nobody_votes_for_himself(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "CHUNK", chunk)
    base = around(0, 1, 90, 92, 180)
    similarity, rows = neighbors(base, k=99)
    assert rows[:, 0].tolist() == [1, 0, 3, 2, 3]
    assert rows.shape == similarity.shape == (5, 4)
    assert all(own not in row for own, row in enumerate(rows.tolist()))
    votes = vote(base, [0, 0, 1, 1, 1], k=1)
    assert votes.accuracy([0, 0, 1, 1, 1]) == (1, 1)
    assert votes.accuracy([1, 0, 1, 1, 1]) == (0.8, 0.8)


def test_neighbors_by_hand() -> None:
    similarity, rows = neighbors(around(0, 30, 90), queries=around(50, -10), k=2)
    assert rows.tolist() == [[1, 2], [0, 1]]
    want = np.cos(np.radians([[20, 40], [10, 40]]))
    np.testing.assert_allclose(similarity, want, atol=1e-6)


def test_accuracies_are_of_each_vote() -> None:
    votes = Votes(weighted=np.array([0, 1, 2, 3]), plain=np.array([0, 1, 0, 0]))
    assert votes.accuracy(torch.tensor([0, 1, 2, 0])) == (0.75, 0.75)
    assert votes.accuracy([0, 1, 2, 3]) == (1.0, 0.5)
    assert votes.of(np.array([2, 3])).accuracy([2, 3]) == (1.0, 0.0)


def test_tensors_and_arrays_give_the_same() -> None:
    base = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    labels = np.arange(20) % 3
    array, tensor = vote(base, labels), vote(torch.from_numpy(base), torch.from_numpy(labels))
    assert array.weighted.tolist() == tensor.weighted.tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embeddings": np.ones((2, 2, 2))}, "embeddings must be of shape"),
        ({"embeddings": np.full((2, 2), np.inf)}, "not finite"),
        ({"embeddings": np.ones((1, 2)), "labels": [0]}, "single embedding"),
        ({"labels": [0]}, "labels must be of shape"),
        ({"labels": [0, -1]}, "negative"),
        ({"queries": np.ones((2, 3))}, "width 3, embeddings 2"),
        ({"k": 0}, "k must be at least 1"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_wrong_input_is_a_value_error(change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"embeddings": np.ones((2, 2)), "labels": [0, 1]}
    assert len(vote(**good).plain) == 2
    with pytest.raises(ValueError, match=words):
        vote(**good | change)
