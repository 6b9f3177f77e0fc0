"""Features of texts, and the texts that are made of a species."""

import zlib

import numpy as np
import pytest

from umbel.evaluation.hashing.species_texts import species_texts, texts_of_classes
from umbel.evaluation.hashing.text_features import pieces, text_features


def test_pieces_are_words_and_runs_of_letters_with_marked_ends() -> None:
    assert list(pieces("Rosa, L.")) == [
        "rosa", "<ro", "ros", "osa", "sa>", "<ros", "rosa", "osa>", "<rosa", "rosa>", "l", "<l>",
    ]  # fmt: skip


def test_features_are_the_signed_roots_of_hashed_counts() -> None:
    text, width = "rosa rosae rosa", 50
    expected = np.zeros(width)
    for piece in set(pieces(text)):
        hashed = zlib.crc32(piece.encode())
        expected[hashed % width] += np.sqrt(list(pieces(text)).count(piece)) * (1 if hashed >= 2**31 else -1)
    found = text_features([text], width)[0]
    assert found == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


def test_what_does_not_matter_does_not() -> None:
    same = text_features(["Rosa canina", "rosa  canina", "CANINA, rosa!", "Rosa canina"])
    assert all(np.array_equal(row, same[0]) for row in same)
    composed, decomposed = text_features(["séneçon", "se\u0301nec\u0327on"])
    assert np.array_equal(composed, decomposed)


def test_near_spellings_are_nearer_than_other_words() -> None:
    rosa, rosae, quercus, empty = text_features(["rosa canina", "rosae caninae", "quercus robur", "..."])
    assert rosa @ rosae > 0.5 > 0.2 > abs(rosa @ quercus)
    assert np.linalg.norm(rosa) == pytest.approx(1, abs=1e-6)
    assert not empty.any()


def test_a_species_is_told_by_name_common_names_and_classification() -> None:
    record = {"common_name": "dog rose", "family": "Rosaceae", "genus": "Rosa", "order": "Rosales", "height": 3}
    texts = species_texts("Rosa_canina", record)
    assert texts[:3] == ["Rosa canina", "a photograph of Rosa canina", "Rosa canina, a plant"]
    assert "a photograph of dog rose" in texts
    assert "Rosales Rosaceae Rosa Rosa canina, a plant" in texts
    assert len(texts) == len(set(texts)) == 9


def test_a_name_alone_is_enough() -> None:
    assert species_texts("Rosa canina") == species_texts("Rosa canina", {"common_name": None, "genus": " "})
    assert [len(texts) for texts in texts_of_classes(["a", "b"], {1: {"common_names": ["x", "y"]}})] == [3, 9]
