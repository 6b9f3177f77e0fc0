"""Labels from a file join photographs by observation; those without a valid one stay, unlabeled and counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from umbel.data.index import open_shards
from umbel.data.join_labels import Labels, join_labels, read_labels
from umbel.data.photograph_set import Photograph, PhotographSet
from umbel.data.reader import ShardReader
from umbel.run import UserError

HEAD = "observation,label,valid,conf,acc,weight\n"


def labels_of(tmp_path: Path, text: str) -> Labels:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return read_labels(path)


def joined(labels: Labels, rows: list[Photograph], classes: tuple[str, ...] = ()) -> PhotographSet:
    return join_labels(PhotographSet(splits={"train": rows}, classes=classes, fingerprint=""), labels)


def photograph(number: int, **metadata: object) -> Photograph:
    return Photograph(path=f"a/{number}.jpg", key=f"k{number}", label=5, class_name="old", metadata=metadata)


def told(found: PhotographSet) -> list[tuple[int | None, str | None, dict[str, object]]]:
    return [(row.label, row.class_name, dict(row.metadata)) for row in found.splits["train"]]


def test_label_validity_and_numbers_go_to_the_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = labels_of(
        tmp_path, HEAD + "1,salvia,true,3.5,0.75,1.25\n2,rosa,True,2,1,\n3,salvia,false,1,0.5,2\n4,,true,,,\n"
    )
    found = joined(labels, [photograph(number) for number in (1, 2, 3, 4, 5)])
    assert found.classes == ("rosa", "salvia")
    assert told(found) == [
        (1, "salvia", {"valid": True, "conf": 3.5, "acc": 0.75, "weight": 1.25}),
        (0, "rosa", {"valid": True, "conf": 2.0, "acc": 1.0}),
        (None, None, {"valid": False, "conf": 1.0, "acc": 0.5, "weight": 2.0}),
        (None, None, {"valid": True}),
        (None, None, {}),
    ]
    assert (
        "joined by file name: 2 of 5 photographs have one, 1 have one that is not valid, 1 are known without one, "
        "1 are unknown to the file"
    ) in capsys.readouterr().out


def test_the_sources_classes_stay_where_they_name_the_labels(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, "observation,label\n1,salvia\n2,rosa\n")
    found = joined(labels, [photograph(1), photograph(2)], ("acer", "rosa", "salvia"))
    assert found.classes == ("acer", "rosa", "salvia")
    assert [row.label for row in found.splits["train"]] == [2, 1]
    other = joined(labels, [photograph(1), photograph(2)], ("acer", "rosa"))
    assert other.classes == ("rosa", "salvia")


def test_numbers_are_sorted_as_numbers_and_before_text(tmp_path: Path) -> None:
    assert labels_of(tmp_path, "observation,label\n1,10\n2,9\n3,b\n4,a\n").labels == ("9", "10", "a", "b")


def test_a_label_that_is_never_valid_is_no_class(tmp_path: Path) -> None:
    assert labels_of(tmp_path, "observation,label,valid\n1,a,1\n2,b,0\n3,c,1\n").labels == ("a", "c")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([21, 22, 21], "observation id"),
        ([31, 32, 33], "image id"),
        (["a1", "a2", "a3"], "file name"),
        (["k_1", "k_2", "k_3"], "key"),
    ],
)
def test_what_an_observation_is_called_by_is_found_out(
    ids: list[object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        Photograph(path=f"x/a{n}.jpg", key=f"k_{n}", metadata={"obs_id": observation, "image_id": 30 + n})
        for n, observation in ((1, "21"), (2, 22), (3, 21.0))
    ]
    distinct = list(dict.fromkeys(ids))
    text = "observation,label\n" + "".join(f"{name},s{name}\n" for name in distinct)
    found = joined(labels_of(tmp_path, text), rows)
    assert [row.class_name for row in found.splits["train"]] == [f"s{name}" for name in ids]
    assert f"joined by {words}" in capsys.readouterr().out


def test_one_kind_of_identity_holds_for_all(tmp_path: Path) -> None:
    """Photograph 3's image id is the number of another's observation: no label must come of that."""
    rows = [photograph(n, observation_id=n + 10, image_id=n + 9) for n in (1, 2, 3)]
    found = joined(labels_of(tmp_path, "observation,label\n11,a\n12,b\n"), rows)
    assert [row.class_name for row in found.splits["train"]] == ["a", "b", None]


def test_a_file_that_knows_none_of_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the photographs"):
        joined(labels_of(tmp_path, "observation,label\nx,a\n"), [photograph(1)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("observation,species\n1,a\n", "has no column 'label'"),
        ("label\na\n", "has no column 'observation'"),
        (HEAD + "1,a,perhaps,1,1,1\n", r"row 1: valid is true or false, not 'perhaps'"),
        (HEAD + "1,a,true,1,1,1\n2,a,true,much,1,1\n", r"row 2: 'much' is no number"),
        ("observation,label\n1,a\n2,b\n1,a\n", r"observation 3 '1' has the name of .*observation 1"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        labels_of(tmp_path, text)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_labels(tmp_path / "labels.csv")


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "observation": [1, 2, 3, 4],
        "label": [7, 10, None, 7],
        "valid": [True, True, True, False],
        "conf": [3.5, None, 1.0, 0.5],
        "votes": [1, 2, 3, 4],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "labels.parquet")
    text = "observation,label,valid,conf\n1,7,true,3.5\n2,10,true,\n3,,true,1\n4,7,false,0.5\n"
    rows = [photograph(number) for number in (1, 2, 3, 4)]
    by_parquet = joined(read_labels(tmp_path / "labels.parquet"), rows)
    by_csv = joined(labels_of(tmp_path, text), rows)
    assert told(by_parquet) == told(by_csv)
    assert by_parquet.classes == by_csv.classes == ("7", "10")
    pyarrow.parquet.write_table(pyarrow.table({"observation": [1]}), tmp_path / "short.parquet")
    with pytest.raises(UserError, match="has no column 'label'; it has: observation"):
        read_labels(tmp_path / "short.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 hello")
    with pytest.raises(UserError, match="no Parquet file that can be read"):
        read_labels(tmp_path / "broken.parquet")


def test_what_votes_aggregate_made_is_read_from_its_folder(tmp_path: Path, umbel: Callable[..., Any]) -> None:
    votes = "observation,user,species,author\n1,a,Rosa,a\n1,b,Rosa,a\n1,c,Rosa,a\n2,a,Rosa,b\n2,b,Salvia,b\n"
    (tmp_path / "votes.csv").write_text(votes)
    found = []
    for kind in ("parquet", "csv"):
        flags = ("--strategy", "two-thirds", "--format", kind, "--out", tmp_path / kind)
        assert umbel("votes", "aggregate", tmp_path / "votes.csv", *flags).code == 0
        found.append(told(joined(read_labels(tmp_path / kind), [photograph(n) for n in (1, 2, 3)])))
    assert found[0] == found[1]
    (label, name, metadata), *others = found[0]
    assert (label, name, metadata["valid"], metadata["acc"]) == (0, "Rosa", True, 1.0)
    assert [row[:2] for row in others] == [(None, None), (None, None)]
    with pytest.raises(UserError, match=r"holds neither labels.parquet nor labels.csv"):
        read_labels(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table({"observation": [1], "label": ["a"]}, metadata={"umbel": '{"format": 2}'})
    pyarrow.parquet.write_table(table, tmp_path / "labels.parquet")
    with pytest.raises(UserError, match="has format 2; this Umbel reads format 1"):
        read_labels(tmp_path / "labels.parquet")


def test_the_command_puts_labels_into_shards(
    tmp_path: Path, photographs: Callable[..., Path], umbel: Callable[..., Any], refused: Callable[..., str]
) -> None:
    source = photographs(["one/a.jpg", "one/b.jpg", "two/c.jpg", "two/d.jpg"])
    (tmp_path / "l.csv").write_text("observation,label,valid,acc\na,two,true,0.9\nb,two,false,0.5\nc,one,true,1\n")
    command = ["shards", "make", "folder", source, "--out", tmp_path / "out", "--labels", tmp_path / "l.csv"]
    code, out, _ = umbel(*command)
    assert code == 0
    assert "2 of 4 photographs have one, 1 have one that is not valid" in out
    shards = open_shards(str(tmp_path / "out"))
    reader = ShardReader(shards)
    found = {}
    for sample in range(len(shards)):
        row = json.loads(reader.read(sample, "json"))
        found[row.pop("source")] = (int(shards.members["label"][sample]), row)
        del row["original_size"]
    assert shards.classes == ("one", "two")
    assert found == {
        "a.jpg": (1, {"label": 1, "class_name": "two", "valid": True, "acc": 0.9}),
        "b.jpg": (-1, {"valid": False, "acc": 0.5}),
        "c.jpg": (0, {"label": 0, "class_name": "one", "valid": True, "acc": 1.0}),
        "d.jpg": (-1, {}),
    }
    (tmp_path / "l.csv").write_text("observation,label\na,one\n")
    assert "another source or with other settings" in refused(*command)


def test_an_empty_valid_is_valid_in_csv_and_parquet(tmp_path: Path) -> None:
    by_csv = labels_of(tmp_path, "observation,label,valid\n1,a,\n2,b,false\n3,c,true\n")
    table = pyarrow.table({"observation": [1, 2, 3], "label": ["a", "b", "c"], "valid": [None, False, True]})
    pyarrow.parquet.write_table(table, tmp_path / "null.parquet")
    table = pyarrow.table({"observation": [1, 2, 3], "label": ["a", "b", "c"], "valid": [float("nan"), 0.0, 1.0]})
    pyarrow.parquet.write_table(table, tmp_path / "nan.parquet")
    for labels in (by_csv, read_labels(tmp_path / "null.parquet"), read_labels(tmp_path / "nan.parquet")):
        assert labels.valid.tolist() == [True, False, True]
        assert labels.labels == ("a", "c")


def test_labels_of_any_number_of_digits_are_sorted_as_numbers(tmp_path: Path) -> None:
    long = "1" * 5000
    labels = labels_of(tmp_path, f"observation,label\n1,{long}\n2,9\n3,010\n4,a\n5,{'2' * 4999}\n6,008\n")
    assert labels.labels == ("008", "9", "010", "2" * 4999, long, "a")


def test_numbers_that_a_table_spells_as_floats_are_whole(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, "observation,label\n1.0,2.0\n2.0,-1.0\n3.0,0.5\n")
    assert labels.labels == ("2", "0.5")
    assert [labels.names.row(name) for name in "123"] == [0, 1, 2]


@pytest.mark.parametrize("told", ["{", "[]", "{}", '"x"', b"\xff", "3"])
def test_metadata_that_tell_no_format_are_told(told: str | bytes, tmp_path: Path) -> None:
    table = pyarrow.table({"observation": [1], "label": ["a"]}, metadata={"umbel": told})
    pyarrow.parquet.write_table(table, tmp_path / "labels.parquet")
    with pytest.raises(UserError, match="its metadata 'umbel' tells no format"):
        read_labels(tmp_path / "labels.parquet")


def test_a_label_that_is_the_name_of_two_classes_is_refused(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, "observation,label\n1,rosa\n")
    with pytest.raises(UserError, match="two classes are called 'rosa'"):
        joined(labels, [photograph(1)], ("rosa", "salvia", "rosa"))
    assert joined(labels, [photograph(1)], ("salvia", "rosa", "salvia")).splits["train"][0].label == 1


def test_a_label_with_a_line_break_is_refused(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, 'observation,label\n1,"ro\nsa"\n')
    with pytest.raises(UserError, match="line break in its name"):
        joined(labels, [photograph(1)])
