"""Search against a slow loop, faiss against numpy, ties by the lowest row, packing there and back."""

import numpy as np
import pytest

from umbel.evaluation.hashing import asymmetric_search, cosine_search, hamming_search, pack, unpack
from umbel.evaluation.hashing.search import nearest_rows, popcount


def faiss_or_skip(engine: str) -> None:
    if engine == "faiss":
        pytest.importorskip("faiss", reason="faiss-cpu is not installed (pip install 'umbel[search]')")


def random_bits(count: int, bits: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, bits)) < 0.5


def slowly(queries: np.ndarray, database: np.ndarray, k: int) -> tuple[list[list[int]], list[list[int]]]:
    """Bool codes, one bit after the other; Python's sort keeps the order of ties."""
    distances, rows = [], []
    for query in queries.tolist():
        differing = [sum(a != b for a, b in zip(query, code, strict=True)) for code in database.tolist()]
        order = sorted(range(len(differing)), key=differing.__getitem__)[:k]
        rows.append(order)
        distances.append([differing[row] for row in order])
    return distances, rows


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 16, 32, 64, 100])
def test_packing_there_and_back(bits: int) -> None:
    codes = random_bits(20, bits)
    packed = pack(codes)
    assert packed.shape == (20, (bits + 7) // 8)
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(unpack(packed, bits), codes)


def test_bit_order_and_padding() -> None:
    np.testing.assert_array_equal(pack(np.array([[1, 0, 0, 0, 0, 0, 0, 1, 1, 1]], bool)), [[0b10000001, 0b11000000]])


@pytest.mark.parametrize("engine", ["numpy", "faiss"])
@pytest.mark.parametrize("bits", [3, 8, 12, 64, 72])
@pytest.mark.parametrize("k", [1, 5, 60, 1000])
def test_equals_a_slow_loop(engine: str, bits: int, k: int) -> None:
    faiss_or_skip(engine)
    queries, database = random_bits(7, bits), random_bits(60, bits, seed=1)
    distances, rows = hamming_search(pack(queries), pack(database), k, engine=engine)  # type: ignore[arg-type]
    slow_distances, slow_rows = slowly(queries, database, k)
    np.testing.assert_array_equal(distances, slow_distances)
    np.testing.assert_array_equal(rows, slow_rows)
    assert (distances.dtype, rows.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize("bits", [8, 32, 64])
@pytest.mark.parametrize("k", [1, 3, 100, 3000])
def test_faiss_equals_numpy_ties_included(bits: int, k: int) -> None:
    faiss_or_skip("faiss")
    # Codes of few values: most distances are tied many times over.
    database = pack(random_bits(16, bits))[np.random.default_rng(1).integers(0, 16, 3000)]
    queries = database[:200]
    for one, other in zip(
        hamming_search(queries, database, k, engine="faiss"),
        hamming_search(queries, database, k, engine="numpy"),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("engine", ["numpy", "faiss"])
def test_ties_go_to_the_lowest_row(engine: str) -> None:
    faiss_or_skip(engine)
    database = np.array([[3], [1], [1], [0], [1]], np.uint8)
    distances, rows = hamming_search(np.array([[0]], np.uint8), database, 4, engine=engine)  # type: ignore[arg-type]
    assert rows.tolist() == [[3, 1, 2, 4]]
    assert distances.tolist() == [[0, 1, 1, 1]]


def test_an_older_numpy_counts_bits_by_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).integers(0, 2**63, (50, 3), dtype=np.uint64)
    expected = [sum(int(word).bit_count() for word in row) for row in words]
    assert popcount(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert popcount(words).tolist() == expected


def test_numpy_serves_where_faiss_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from umbel.evaluation.hashing import search

    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    assert search.choose_engine() == "numpy"


@pytest.mark.parametrize("bits", [3, 8, 21])
@pytest.mark.parametrize("k", [1, 10, 99])
def test_asymmetric_search_equals_a_slow_loop(bits: int, k: int) -> None:
    generator = np.random.default_rng(0)
    logits, database = generator.normal(size=(6, bits)).astype(np.float32) * 3, random_bits(40, bits, seed=1)
    distances, rows = asymmetric_search(logits, pack(database), k)
    for query, found, order in zip(logits.astype(float), distances, rows, strict=True):
        exact = np.abs(1 / (1 + np.exp(-query)) - database).sum(1)
        np.testing.assert_allclose(found, np.sort(exact)[:k], rtol=1e-12)
        np.testing.assert_allclose(exact[order], found, rtol=1e-12)


def test_asymmetric_ties_go_to_the_lowest_row() -> None:
    codes = random_bits(8, 40)
    picked = np.random.default_rng(2).integers(0, 8, 500)
    logits = np.random.default_rng(1).normal(size=(5, 40))
    distances, rows = asymmetric_search(logits, pack(codes[picked]), 500)
    for found, order in zip(distances, rows, strict=True):
        assert len(np.unique(found)) <= 8
        assert all(order[i] < order[i + 1] for i in range(499) if found[i] == found[i + 1])


def test_certain_logits_make_the_asymmetric_distance_the_symmetric_one() -> None:
    queries, database = random_bits(5, 24), pack(random_bits(50, 24, seed=1))
    soft = asymmetric_search(np.where(queries, 1e4, -1e4), database, 50)
    hard = hamming_search(pack(queries), database, 50, engine="numpy")
    np.testing.assert_array_equal(soft[0], hard[0])
    np.testing.assert_array_equal(soft[1], hard[1])


def test_cosine_search() -> None:
    database = np.array([[1, 0], [0, 2], [3, 3], [0, 0], [5, 0]], np.float32)
    distances, rows = cosine_search(np.array([[2, 0]], np.float32), database, 9)
    assert rows.tolist() == [[0, 4, 2, 1, 3]]
    np.testing.assert_allclose(distances[0], [0, 0, 1 - 0.5**0.5, 1, 1], atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4, 7, 8])
def test_nearest_rows_are_those_of_a_stable_sort(k: int) -> None:
    distances = np.array([2, 1, 2, 0, 1, 1, 2, 0])
    found, rows = nearest_rows(distances, k)
    np.testing.assert_array_equal(rows, np.argsort(distances, kind="stable")[:k])
    np.testing.assert_array_equal(found, distances[rows])


@pytest.mark.parametrize("search", [hamming_search, asymmetric_search, cosine_search])
def test_nothing_to_search_and_bad_numbers(search: object) -> None:
    wide = np.zeros((2, 16 if search is asymmetric_search else 2), np.uint8)
    for queries, count, shape in ((wide, 0, (2, 0)), (wide[:0], 3, (0, 1))):
        distances, rows = search(queries, np.zeros((count, 2), np.uint8), 1)  # type: ignore[operator]
        assert distances.shape == rows.shape == shape
    with pytest.raises(ValueError, match="wide"):
        search(wide, np.zeros((3, 5), np.uint8), 1)  # type: ignore[operator]
    with pytest.raises(ValueError, match="k must be at least 1"):
        search(wide, np.zeros((3, 2), np.uint8), 0)  # type: ignore[operator]
