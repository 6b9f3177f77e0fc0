"""The index beside large sets: exact within its lists, ties by the lowest row, refused where it is another set's."""

from pathlib import Path

import numpy as np
import pytest

from umbel.evaluation.hashing import Codes, hamming_search, pack
from umbel.evaluation.hashing import index as index_file
from umbel.evaluation.hashing.codes import INDEX
from umbel.evaluation.hashing.finder import FLAT_FROM, Finder
from umbel.evaluation.hashing.index import build_index, open_index, search_lists
from umbel.run import UserError

pytest.importorskip("faiss", reason="faiss-cpu is not installed (pip install 'umbel[search]')")


def clustered(count: int = 3000, *, bits: int = 32, clusters: int = 40) -> np.ndarray:
    """Codes around cluster centers, many of them equal."""
    generator = np.random.default_rng(0)
    centers = generator.random((clusters, bits)) < 0.5
    return pack(centers[generator.integers(0, clusters, count)] ^ (generator.random((count, bits)) < 0.03))


def stored(packed: np.ndarray, folder: Path, choice: str) -> Codes:
    count, zeros = len(packed), np.zeros(len(packed), np.int64)
    keys = tuple(f"k{row}" for row in range(count))
    bare = {"bits": 8 * packed.shape[1], "label": zeros, "split": zeros, "keys": keys, "splits": ("train",)}
    folder.mkdir()
    told = build_index(packed, 8 * packed.shape[1], folder / INDEX, choice)  # type: ignore[arg-type]
    Codes(packed=packed, classes=(), provenance={"index": told}, **bare).save(folder.parent / "codes")  # type: ignore[arg-type]
    if told:
        (folder / INDEX).rename(folder.parent / "codes" / INDEX)
    return Codes.load(folder.parent / "codes")


def test_all_lists_are_the_exact_answer_ties_included(tmp_path: Path) -> None:
    packed = clustered()
    told = build_index(packed, 32, tmp_path / INDEX, "ivf")
    assert told is not None
    index = open_index(tmp_path / INDEX, packed, told)
    queries = packed[:50] ^ np.uint8(1)
    for k in (1, 10, 700, 5000):
        for one, other in zip(
            search_lists(index, queries, k, told["lists"]), hamming_search(queries, packed, k), strict=True
        ):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_few_lists_hold_most_neighbors_and_break_ties_by_row(tmp_path: Path) -> None:
    packed = clustered()
    codes = stored(packed, tmp_path / "made", "ivf")
    told = codes.provenance["index"]
    assert told["recall@10"] >= 0.95
    assert told["probes"] < told["lists"]
    finder = Finder(codes, tmp_path / "codes")
    assert "lists of the index" in finder.how
    distances, rows = finder.nearest(packed[:200], 10)
    exact, lowest = hamming_search(packed[:200], packed, 10)
    assert (distances == exact).mean() > 0.9
    # Equal codes stand in one list: all of them are found, the lowest rows first.
    same = exact == 0
    np.testing.assert_array_equal(rows[same], lowest[same])
    for found, order in zip(distances, rows, strict=True):
        assert sorted(zip(found, order, strict=True)) == list(zip(found, order, strict=True))
        assert len(set(order)) == 10
    assert Finder(codes, tmp_path / "codes", exact=True).nearest(packed[:2], 10)[1].tolist() == lowest[:2].tolist()


def test_lists_too_small_for_the_answer_are_joined_by_others(tmp_path: Path) -> None:
    packed = clustered()
    told = build_index(packed, 32, tmp_path / INDEX, "ivf")
    assert told is not None
    distances, rows = search_lists(open_index(tmp_path / INDEX, packed, told), packed[:5], 2900, 1)
    assert rows.min() >= 0
    assert all(len(set(row)) == 2900 for row in rows.tolist())
    assert distances.max() <= 32


def test_small_sets_have_none_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_index(clustered(), 32, tmp_path / INDEX, "auto") is None
    assert "3,000 codes are fewer than 4,000,000" in capsys.readouterr().out
    assert not (tmp_path / INDEX).exists()


def test_codes_without_clusters_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_file, "LARGE", 3000)
    assert build_index(clustered(), 32, tmp_path / INDEX, "auto") is not None
    assert "an index (faiss IVF)" in capsys.readouterr().out
    (tmp_path / INDEX).unlink()
    random = np.random.default_rng(0).integers(0, 256, (3000, 16), dtype=np.uint8)
    assert build_index(random, 128, tmp_path / INDEX, "auto") is None
    assert "form no clusters" in capsys.readouterr().out
    assert not (tmp_path / INDEX).exists()


def test_an_index_of_other_codes_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    codes = stored(clustered(), tmp_path / "made", "ivf")
    file = tmp_path / "codes" / INDEX
    with pytest.raises(UserError, match="one of other codes"):
        open_index(file, codes.packed[:-1], codes.provenance["index"])
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        Finder(codes, tmp_path / "codes")
    file.unlink()
    assert "exact" in Finder(codes, tmp_path / "codes").how


def test_many_queries_give_what_one_at_a_time_gives(tmp_path: Path) -> None:
    codes = stored(clustered(), tmp_path / "made", "none")
    many, one = (Finder(codes, tmp_path, queries=count) for count in (FLAT_FROM, 1))
    assert "faiss" in many.how
    assert "numpy" in one.how
    for a, b in zip(many.nearest(codes.packed[:99], 30), one.nearest(codes.packed[:99], 30), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("k", [1, 1000, 20000])
def test_faiss_equals_numpy_among_very_many_equal_codes(k: int) -> None:
    database = np.random.default_rng(0).integers(0, 2, (70_000, 1), dtype=np.uint8).repeat(8, axis=1)
    queries = np.array([[0] * 8, [1] * 8, [255] * 8], np.uint8)
    for a, b in zip(
        hamming_search(queries, database, k, engine="faiss"),
        hamming_search(queries, database, k, engine="numpy"),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
