"""Shortlists ordered again against a slow loop: the query left out, ties by the lowest row."""

from pathlib import Path

import numpy as np
import pytest

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing import ITQ, Codes, asymmetric_search, pack
from umbel.evaluation.hashing.encode_command import encode
from umbel.evaluation.hashing.finder import Finder
from umbel.evaluation.hashing.queries import of_keys, of_logits, of_rows
from umbel.evaluation.hashing.rerank import Ranking, cosine_distances
from umbel.evaluation.hashing.search import asymmetric_distances
from umbel.evaluation.stored_embeddings import StoredEmbeddings
from umbel.run import UserError

COUNT = 60


@pytest.fixture
def made(tmp_path: Path) -> tuple[ITQ, StoredEmbeddings, Codes, Path]:
    """Features of which each stands twice, so that every distance ties."""
    half = np.random.default_rng(0).normal(size=(COUNT // 2, 6)).astype(np.float32)
    Embeddings(
        features=np.concatenate([half, half[::-1]]),
        label=np.arange(COUNT) % 3 - 1,
        split=np.zeros(COUNT, np.int64),
        keys=tuple(f"k{row}" for row in range(COUNT)),
        splits=("train",),
        classes=("Rosa", "Salvia"),
    ).save(tmp_path / "embeddings")
    stored = StoredEmbeddings.open(tmp_path / "embeddings")
    hasher = ITQ(5).fit(np.array(stored.features))
    return hasher, stored, encode(hasher, stored, tmp_path / "codes", {}), tmp_path / "codes"


def ordered(distances: np.ndarray, hamming: np.ndarray, shortlist: int, top: int, own: int) -> list[int]:
    """By Python's own sort, which keeps the order of ties."""
    rows = [row for row in sorted(range(COUNT), key=hamming.__getitem__) if row != own][:shortlist]
    return sorted(sorted(rows), key=distances.__getitem__)[:top]


@pytest.mark.parametrize("rerank", ["asymmetric", "float"])
@pytest.mark.parametrize(("shortlist", "top"), [(7, 7), (20, 5), (60, 59), (600, 100)])
def test_equals_a_slow_loop(
    rerank: str, shortlist: int, top: int, made: tuple[ITQ, StoredEmbeddings, Codes, Path]
) -> None:
    hasher, stored, codes, folder = made
    features = np.array(stored.features)
    ranking = Ranking(
        Finder(codes, folder),
        rerank=rerank,  # type: ignore[arg-type]
        shortlist=shortlist,
        hasher=hasher,
        embeddings=stored,
    )
    logits, bits = hasher.logits(features), hasher.encode(features)
    asked = of_rows(codes, [4, 59])
    for answer, row in zip(ranking.answers(asked, top), (4, 59), strict=True):
        hamming = (bits != bits[row]).sum(1)
        exact = np.abs(1 / (1 + np.exp(-logits[row].astype(float))) - bits).sum(1)
        if rerank == "float":
            unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
            exact = 1 - unit @ unit[row]
        exact = exact.round(9)
        assert answer.rows.tolist() == ordered(exact, hamming, shortlist, top, row)
        np.testing.assert_allclose(answer.distance, exact[answer.rows], atol=1e-6)
        np.testing.assert_array_equal(answer.hamming, hamming[answer.rows])


def test_a_shortlist_of_all_is_asymmetric_search(made: tuple[ITQ, StoredEmbeddings, Codes, Path]) -> None:
    _, _, codes, folder = made
    logits = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    ranking = Ranking(Finder(codes, folder), rerank="asymmetric", shortlist=COUNT)
    distances, rows = asymmetric_search(logits, codes.packed, 10)
    for answer, distance, row in zip(
        ranking.answers(of_logits(("a", "b", "c"), logits), 10), distances, rows, strict=True
    ):
        np.testing.assert_array_equal(answer.rows, row)
        np.testing.assert_array_equal(answer.distance, distance)


def test_logits_have_no_floats_to_be_ordered_by(made: tuple[ITQ, StoredEmbeddings, Codes, Path]) -> None:
    _, stored, codes, folder = made
    ranking = Ranking(Finder(codes, folder), rerank="float", embeddings=stored)
    with pytest.raises(ValueError, match="no features"):
        ranking.answers(of_logits(("a",), np.ones((1, 5), np.float32)), 3)


def test_equal_rows_have_equal_distances_wherever_they_stand() -> None:
    generator = np.random.default_rng(0)
    for width in (3, 64, 384):
        row, query = generator.normal(size=(2, width)).astype(np.float32)
        rows = np.concatenate([generator.normal(size=(5, width)).astype(np.float32), np.tile(row, (37, 1))])
        assert len(np.unique(cosine_distances(query, rows)[5:])) == 1
        assert len(np.unique(asymmetric_distances(query, pack(rows > 0))[5:])) == 1
    assert cosine_distances(np.ones(2, np.float32), np.zeros((1, 2), np.float32)).tolist() == [1.0]


def test_keys_that_are_not_there(made: tuple[ITQ, StoredEmbeddings, Codes, Path]) -> None:
    codes = made[2]
    assert of_keys(codes, ["k7", "k0"]).own.tolist() == [7, 0]
    with pytest.raises(UserError, match="'k77', did you mean 'k7'"):
        of_keys(codes, ["k7", "k77"])


def test_a_finer_tie_goes_to_the_lowest_row_though_bits_differ(made: tuple[ITQ, StoredEmbeddings, Codes, Path]) -> None:
    _, _, codes, folder = made
    bits = np.array([[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0]], bool)
    few = Codes(**(vars(codes) | {"packed": pack(bits), "label": codes.label[:3], "split": codes.split[:3]}))
    # The first bit of the query is undecided: half a bit from either value.
    asked = of_logits(("a",), np.array([[0, 9, -9, -9, -9]], np.float32))
    (plain,) = Ranking(Finder(few, folder)).answers(asked, 3)
    (finer,) = Ranking(Finder(few, folder), rerank="asymmetric").answers(asked, 3)
    assert plain.rows.tolist() == [1, 0, 2]
    assert finer.rows.tolist() == [0, 1, 2]
    assert finer.hamming.tolist() == [1, 0, 1]
    assert len(set(finer.distance.tolist())) == 1
