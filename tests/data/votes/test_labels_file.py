"""Labels as `umbel votes aggregate` wrote them, read again by observation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from umbel.data.votes import aggregate
from umbel.data.votes.labels_file import Label, read_labels
from umbel.run import UserError

VOTES = "observation,user,species,author\np/1,a,Rosa,a\np/1,b,Rosa,a\np/1,c,Rosa,a\np/2,a,Rosa,b\np/2,b,Salvia,b\n"


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    (tmp_path / "votes.csv").write_text(VOTES)
    return tmp_path / "votes.csv"


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("ties", ["lowest", "abstain"])
def test_labels_come_back_as_they_were_found(suffix: str, ties: Any, votes: Path, umbel: Callable[..., Any]) -> None:
    out = votes.parent / "out"
    ending = umbel("votes", "aggregate", votes, "--out", out, "--format", suffix, "--ties", ties)
    assert ending.code == 0, ending.err
    rows = [line.split(",") for line in VOTES.splitlines()[1:]]
    found = aggregate(*[[row[n] for row in rows] for n in range(3)], authors={"p/1": "a", "p/2": "b"}, ties=ties)
    expected = {
        i: Label(label, bool(valid), float(conf), float(acc))
        for i, label, valid, conf, acc in zip(
            found.observation, found.label, found.valid, found.conf, found.acc, strict=True
        )
    }
    assert expected["p/2"].label == (None if ties == "abstain" else "Rosa")
    for path in (out, out / f"labels.{suffix}"):
        assert read_labels(path) == expected


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_numbers_come_back_as_text(suffix: str, tmp_path: Path, umbel: Callable[..., Any]) -> None:
    (tmp_path / "votes.csv").write_text("observation,user,species\n10,1,7\n9,1,8\n")
    umbel("votes", "aggregate", tmp_path / "votes.csv", "--out", tmp_path / "out", "--format", suffix)
    assert {i: label.label for i, label in read_labels(tmp_path / "out").items()} == {"9": "8", "10": "7"}


def labels(path: Path, told: Any = None, **columns: list[Any]) -> Path:
    rows = {"observation": ["a", "b"], "label": ["k", None], "valid": [True, False], "conf": [2.0, 0.0]}
    table = pa.table(rows | {"acc": [1.0, 0.5]} | columns)
    pa.parquet.write_table(table.replace_schema_metadata(told), path)
    return path


def test_a_table_of_ones_own_is_read_too(tmp_path: Path) -> None:
    found = read_labels(labels(tmp_path / "mine.parquet", remark=["x", "y"]))
    assert found == {"a": Label("k", True, 2.0, 1.0), "b": Label(None, False, 0.0, 0.5)}


def test_files_that_hold_no_labels_are_refused(tmp_path: Path) -> None:
    newer = {b"umbel": json.dumps({"format": 2}).encode()}
    cases = [
        (labels(tmp_path / "newer.parquet", newer), "has format 2; this Umbel reads format 1"),
        (labels(tmp_path / "twice.parquet", observation=["a", "a"]), "observations more than once"),
        (labels(tmp_path / "missing.parquet", valid=[True, None]), "1 rows have no valid"),
        (tmp_path / "absent.csv", "there is no such file"),
        (tmp_path, "holds neither labels.parquet nor labels.csv"),
    ]
    (tmp_path / "users.csv").write_text("user,weight\n1,2\n")
    cases.append((tmp_path / "users.csv", "has no column 'observation'"))
    for path, words in cases:
        with pytest.raises(UserError, match=words):
            read_labels(path)
