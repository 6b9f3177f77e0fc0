"""Keys that stay in their file: by row, by name, many at once, damaged ones refused."""

from pathlib import Path

import numpy as np
import pytest

from umbel.evaluation.hashing.keys import FEW, Keys, line_ends

NAMES = ("rosa", "rosa_1", "a", "sálvia 2", "", "rosa", "osa", "thymus")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    return path


def test_a_sequence_of_lines(file: Path) -> None:
    keys = Keys(file)
    assert tuple(keys) == NAMES
    assert (len(keys), keys[-1], keys[3], keys[1:4]) == (8, "thymus", "sálvia 2", NAMES[1:4])
    assert keys == NAMES
    assert keys == Keys(file)
    assert keys != (*NAMES[:-1], "other")
    assert keys != NAMES[:-1]
    assert keys != (*NAMES, "")
    with pytest.raises(IndexError):
        keys[8]


def test_found_by_name_in_the_first_row_that_bears_it(file: Path) -> None:
    keys = Keys(file)
    expected = {name: NAMES.index(name) for name in NAMES}
    for name, row in expected.items():
        assert keys.find([name]) == {name: row}
    assert keys.find(["ros", "osa_1", "thymus\n", "rosa\nrosa_1", "salvia"]) == {}
    assert "sálvia 2" in keys
    assert "alvia" not in keys
    assert 3 not in keys


def test_many_are_found_as_few_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbel.evaluation.hashing.keys.ROWS_AT_ONCE", 3)
    names = (*NAMES, "a_very_long_key", "another_long_key", "a_very_long_key", "x_long_key", "7 bytes", "8_bytes_", "b")
    for order in (names, names[::-1]):
        path = tmp_path / "keys.txt"
        path.write_text("".join(f"{name}\n" for name in order), encoding="utf-8")
        many = [*names, *(f"no {number}_long_key" for number in range(FEW)), "y_long_key", "xx_long_key"]
        assert Keys(path).find(many) == {name: order.index(name) for name in names}


def test_lines_are_counted_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.txt"
    names = [f"k{number:03d}" for number in range(100)]
    path.write_text("".join(f"{name}\n" for name in names))
    monkeypatch.setattr("umbel.evaluation.hashing.keys.AT_ONCE", 7)
    np.testing.assert_array_equal(line_ends(path), np.arange(5, 501, 5))
    assert list(Keys(path)) == names


def test_no_keys_and_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("")
    assert list(Keys(path)) == []
    assert Keys(path).find(["a"]) == {}
    path.write_text("a\nb")
    with pytest.raises(ValueError, match="has 3 bytes"):
        Keys(path)
    with pytest.raises(ValueError, match="has 3 bytes"):
        Keys(path, np.array([2, 4]))
