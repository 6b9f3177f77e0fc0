"""Photographs that a table lists: CSV files of the user's, and the data sets of Meta-Album."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from umbel.data.index import open_shards
from umbel.data.photograph_set import PhotographSet
from umbel.data.reader import ShardReader
from umbel.data.sources.listed import read_listed
from umbel.run import UserError

Photographs = Callable[..., Path]
Umbel = Callable[..., Any]
Row = Mapping[str, str]


def samples(folder: Path) -> dict[str, tuple[str, int, dict[str, Any]]]:
    """File name -> split, label and JSON of every sample."""
    shards = open_shards(str(folder))
    reader = ShardReader(shards)
    found = {}
    for sample, member in enumerate(shards.members):
        row = json.loads(reader.read(sample, "json"))
        found[row.pop("source")] = (shards.shards[member["shard"]].split, int(member["label"]), row)
        del row["original_size"]
    return found


def listed(*rows: Row) -> PhotographSet:
    return read_listed(
        [{"path": f"{place}.jpg", **row} for place, row in enumerate(rows)], Path(), "train", where=Path("t")
    )


def test_a_table_becomes_shards(photographs: Photographs, tmp_path: Path, umbel: Umbel) -> None:
    source = photographs(["x/a.jpg", "x/b.jpg", "c.jpg", "d.jpg"])
    (source / "list.csv").write_text(
        "path,class,split,organ,license\nx/a.jpg,salvia,valid,leaf,CC0\nx/b.jpg,rosa,,flower,\nc.jpg,rosa,TEST,,CC0\n"
        f"{source}/d.jpg,,unlabelled,,\n"
    )
    code, out, _ = umbel("shards", "make", "csv", source / "list.csv", "--out", tmp_path / "out")
    assert code == 0
    assert samples(tmp_path / "out") == {
        "a.jpg": ("val", 1, {"class_name": "salvia", "label": 1, "organ": "leaf", "license": "CC0"}),
        "b.jpg": ("train", 0, {"class_name": "rosa", "label": 0, "organ": "flower"}),
        "c.jpg": ("test", 0, {"class_name": "rosa", "label": 0, "license": "CC0"}),
        "d.jpg": ("unlabeled", -1, {}),
    }
    assert "license: 2 photographs: CC0" in out


def test_a_photograph_that_is_not_there_is_a_bad_one(
    photographs: Photographs, tmp_path: Path, umbel: Umbel, refused: Callable[..., str]
) -> None:
    source = photographs(["a.jpg"])
    (source / "list.csv").write_text("path\na.jpg\nb.jpg\n")
    command = ["shards", "make", "csv", source / "list.csv", "--out", tmp_path / "out"]
    assert "b.jpg: it cannot be read (No such file or directory); 1 of 2" in refused(*command)
    assert umbel(*command, "--max-bad", "0.5").code == 0
    assert list(json.loads((tmp_path / "out" / "bad.json").read_text())) == [str(source / "b.jpg")]


def test_another_content_of_the_table_or_a_photograph_is_another_source(
    photographs: Photographs, jpeg: Callable[..., bytes], tmp_path: Path, umbel: Umbel
) -> None:
    source = photographs(["a.jpg", "b.jpg"])
    command = ["shards", "make", "csv", source / "list.csv", "--out", tmp_path / "out"]
    (source / "list.csv").write_text("path,class\na.jpg,x\nb.jpg,y\n")
    assert [umbel(*command).code for _ in range(2)] == [0, 0]
    (source / "list.csv").write_text("path,class\na.jpg,x\nb.jpg,x\n")
    assert umbel(*command).code == 2
    (source / "list.csv").write_text("path,class\na.jpg,x\nb.jpg,y\n")
    assert umbel(*command).code == 0
    (source / "b.jpg").write_bytes(jpeg(9, width=60))
    assert umbel(*command).code == 2


def test_labels_that_are_numbers_are_kept(tmp_path: Path) -> None:
    found = listed({"label": "3", "class": "rosa"}, {"label": "0", "class": ""}, {"label": ""}, {"label": "3"})
    assert found.classes == ("0", "1", "2", "rosa")
    assert [row.label for row in found.splits["train"]] == [3, 0, None, 3]
    assert [row.class_name for row in found.splits["train"]] == ["rosa", "0", None, "rosa"]


def test_labels_that_are_names_are_classes() -> None:
    found = listed({"label": "salvia"}, {"label": "rosa"}, {"label": ""})
    assert found.classes == ("rosa", "salvia")
    assert [row.label for row in found.splits["train"]] == [1, 0, None]


def test_without_labels_there_are_no_classes() -> None:
    found = listed({}, {"organ": "leaf"})
    assert found.classes == ()
    assert [dict(row.metadata) for row in found.splits["train"]] == [{}, {"organ": "leaf"}]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "lists no photographs"),
        ([{"path": "a.jpg"}, {"path": "a.jpg"}], "lists 'a.jpg' twice"),
        ([{"path": ""}], "row without a path"),
        ([{"split": "my split"}], "a split must be a word"),
        ([{"label": "rosa", "class": "rosa"}], "the column label must hold numbers from 0"),
        ([{"label": "-2", "class": "rosa"}], "the column label must hold numbers from 0"),
        ([{"label": "1", "class": "a"}, {"label": "1", "class": "b"}], "label 1 is called 'a' and 'b'"),
        ([{"label": "9999999999"}], "label 9999999999 is too large"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(rows: list[Row], words: str) -> None:
    with pytest.raises(UserError, match=words):
        listed(*rows)


def album(photographs: Photographs, info: object = None, table: str = "FILE_NAME,CATEGORY,SUPER_CATEGORY\n") -> Path:
    root = photographs(["images/a.jpg", "images/b.jpg"], "album")
    (root / "labels.csv").write_text(table + "a.jpg,salvia,mint\nb.jpg,rosa,rose\n")
    if info is not None:
        (root / "info.json").write_text(info if isinstance(info, str) else json.dumps(info))
    return root


@pytest.mark.parametrize(
    ("info", "head"),
    [
        (None, "FILE_NAME,CATEGORY,SUPER_CATEGORY\n"),
        ({}, "FILE_NAME,CATEGORY,SUPER_CATEGORY\n"),
        (
            {
                "image_column_name": "f",
                "category_column_name": "c",
                "has_super_categories": True,
                "super_category_column_name": "s",
            },
            "f,c,s\n",
        ),
    ],
)
def test_an_album_becomes_shards(
    info: object, head: str, photographs: Photographs, tmp_path: Path, umbel: Umbel
) -> None:
    root = album(photographs, info, head)
    assert umbel("shards", "make", "meta-album", root, "--out", tmp_path / "out", "--split", "test").code == 0
    assert samples(tmp_path / "out") == {
        "a.jpg": ("test", 1, {"class_name": "salvia", "label": 1, "super_category": "mint"}),
        "b.jpg": ("test", 0, {"class_name": "rosa", "label": 0, "super_category": "rose"}),
    }


def test_an_album_may_have_tabs_and_its_photographs_beside_the_table(
    photographs: Photographs, tmp_path: Path, umbel: Umbel
) -> None:
    root = photographs(["a.jpg"], "album")
    (root / "labels.csv").write_text("FILE_NAME\tCATEGORY\na.jpg\trosa, wild\n")
    info = {"csv_with_tab": True, "images_in_sub_folder": False, "dataset_name": "PLT"}
    (root / "info.json").write_text(json.dumps(info))
    assert umbel("shards", "make", "meta-album", root, "--out", tmp_path / "out").code == 0
    expected = {"class_name": "rosa, wild", "label": 0, "dataset": "PLT"}
    assert samples(tmp_path / "out") == {"a.jpg": ("train", 0, expected)}


@pytest.mark.parametrize(
    ("info", "head", "words"),
    [
        ("{", "FILE_NAME,CATEGORY,S\n", "info.json cannot be read"),
        ("[]", "FILE_NAME,CATEGORY,S\n", "info.json is not a JSON object"),
        ({"image_column_name": "f"}, "FILE_NAME,CATEGORY,S\n", "labels.csv has no column 'f'"),
        (None, "FILE_NAME,SPECIES,S\n", "labels.csv has no column 'CATEGORY'"),
    ],
)
def test_what_is_wrong_with_an_album_is_told(
    info: object, head: str, words: str, photographs: Photographs, tmp_path: Path, refused: Callable[..., str]
) -> None:
    root = album(photographs, info, head)
    assert words in refused("shards", "make", "meta-album", root, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_table_is_no_album(photographs: Photographs, tmp_path: Path, refused: Any) -> None:
    source = photographs(["a.jpg"])
    assert "it has no labels.csv" in refused("shards", "make", "meta-album", source, "--out", tmp_path / "out")


@pytest.mark.parametrize("name", ["source", "original_size", "class_name"])
def test_a_column_that_would_be_overwritten_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"has a column '{name}', which Umbel writes into each sample itself: rename"):
        listed({name: "mine"})


def test_whole_numbers_spelled_as_floats_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed({"label": "2.0"}, {"label": "0."}, {"label": ""}, {"label": "-1"}, {"label": "-1.0"}, {"label": "2"})
    assert [row.label for row in found.splits["train"]] == [2, 0, None, None, None, 2]
    assert found.classes == ("0", "1", "2")
    assert "labels are read as numbers of classes, from 0 to 2" in capsys.readouterr().out


def test_names_that_are_numbers_are_sorted_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed({"label": "10"}, {"label": "rosa"}, {"label": "9.0"}, {"label": "0.5"})
    assert found.classes == ("9", "10", "0.5", "rosa")
    assert "labels are read as names: 4 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"path": "a\0b.jpg"}, "no path has a NUL"),
        ({"label": "1" * 5000}, "label 1{20} is too large"),
        ({"label": "1000000"}, "label 1000000 is too large"),
        ({"class": "ro\u2028sa"}, "line break in its name"),
        ({"label": "ro\nsa"}, "line break in its name"),
    ],
)
def test_odd_values_are_told(row: Row, words: str) -> None:
    with pytest.raises(UserError, match=words):
        listed(row)


def test_a_pipe_is_a_bad_photograph_and_not_waited_for(photographs: Photographs, tmp_path: Path, umbel: Umbel) -> None:
    source = photographs(["a.jpg"])
    os.mkfifo(source / "b.jpg")
    (source / "list.csv").write_text("path\na.jpg\nb.jpg\n/dev/zero\n")
    assert umbel("shards", "make", "csv", source / "list.csv", "--out", tmp_path / "out", "--max-bad", 0.9).code == 0
    assert set(json.loads((tmp_path / "out" / "bad.json").read_text()).values()) == {"it is no file"}


def test_force_does_not_move_listed_photographs(
    photographs: Photographs, tmp_path: Path, refused: Callable[..., str]
) -> None:
    source = photographs(["pictures/deep/a.jpg"])
    (source / "list.csv").write_text("path\npictures/deep/a.jpg\n")
    for out in ("pictures", "pictures/deep"):
        told = refused("shards", "make", "csv", source / "list.csv", "--out", source / out, "--force")
        assert "would be moved aside" in told
        assert (source / "pictures" / "deep" / "a.jpg").is_file()


def test_force_does_not_move_an_albums_photographs(photographs: Photographs, refused: Callable[..., str]) -> None:
    root = album(photographs)
    assert "would be moved aside" in refused("shards", "make", "meta-album", root, "--out", root / "images", "--force")
    assert (root / "images" / "a.jpg").is_file()
