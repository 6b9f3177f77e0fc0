"""Pl@ntNet-300K: species by folder, with organ, author and license from JSON or CSV."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umbel.data.index import open_shards
from umbel.data.photograph_set import PhotographSet
from umbel.data.reader import ShardReader
from umbel.data.sources.plantnet300k import read_plantnet300k
from umbel.run import UserError

IMAGES = {
    "train": ["1355868/aa.jpg", "1355868/ab.jpg", "90/ba.jpg"],
    "val": ["90/bb.jpg"],
    "test": ["1355868/ac.jpg"],
}
METADATA = {
    "aa": {"species_id": "1355868", "obs_id": "7", "organ": "leaf", "author": "Ana", "license": "cc-by-sa"},
    "ba": {"species_id": "90", "obs_id": "8", "organ": "flower", "author": "Bo", "license": "cc0"},
}
NAMES = {"1355868": "Lactuca virosa L.", "90": "Abies alba Mill."}


@pytest.fixture
def plantnet(photographs: Callable[..., Path]) -> Callable[..., Path]:
    """Lay the data set out; `pattern` says how a split's folder is called."""

    def lay(pattern: str = "images/{}", metadata: str | None = "json") -> Path:
        root = photographs([f"{pattern.format(split)}/{name}" for split, names in IMAGES.items() for name in names])
        (root / "plantnet300K_species_id_2_name.json").write_text(json.dumps(NAMES))
        if metadata == "json":
            (root / "plantnet300K_metadata.json").write_text(json.dumps(METADATA))
        elif metadata is not None:
            columns = next(iter(METADATA.values()))
            rows = [",".join([image, *row.values()]) for image, row in METADATA.items()]
            (root / "plantnet300K_metadata.csv").write_text("\n".join([f"{metadata},{','.join(columns)}", *rows]))
        return root

    return lay


def told(found: PhotographSet) -> dict[str, dict[str, tuple[int | None, str | None, dict[str, object]]]]:
    return {
        split: {Path(row.path).name: (row.label, row.class_name, dict(row.metadata)) for row in rows}
        for split, rows in found.splits.items()
    }


@pytest.mark.parametrize("pattern", ["images/{}", "{}", "images_{}", "images/images_{}"])
@pytest.mark.parametrize("metadata", ["json", "", "image_id", "hash"])
def test_it_is_read_however_it_is_laid_out(pattern: str, metadata: str, plantnet: Callable[..., Path]) -> None:
    found = read_plantnet300k(plantnet(pattern, metadata))
    lactuca, abies = (0, "Lactuca virosa L."), (1, "Abies alba Mill.")
    assert found.classes == ("Lactuca virosa L.", "Abies alba Mill.")
    assert told(found) == {
        "train": {
            "aa.jpg": (*lactuca, {"image_id": "aa", **METADATA["aa"]}),
            "ab.jpg": (*lactuca, {"image_id": "ab", "species_id": "1355868"}),
            "ba.jpg": (*abies, {"image_id": "ba", **METADATA["ba"]}),
        },
        "val": {"bb.jpg": (*abies, {"image_id": "bb", "species_id": "90"})},
        "test": {"ac.jpg": (*lactuca, {"image_id": "ac", "species_id": "1355868"})},
    }


def test_without_metadata_and_names_the_folders_say_what_there_is(
    plantnet: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = plantnet(metadata=None)
    (root / "plantnet300K_species_id_2_name.json").unlink()
    found = read_plantnet300k(root)
    assert found.classes == ("1355868", "90")
    assert "organ, author and license stay unknown" in capsys.readouterr().out


def test_the_command_counts_licenses_and_splits(
    plantnet: Callable[..., Path], tmp_path: Path, umbel: Callable[..., Any]
) -> None:
    code, out, _ = umbel("shards", "make", "plantnet300k", plantnet(), "--out", tmp_path / "out")
    assert code == 0
    assert "2 species, 2 of them named by plantnet300K_species_id_2_name.json, which names 2" in out
    assert "2 of 5 images are described by plantnet300K_metadata.json" in out
    assert "license: 1 photographs: cc0" in out
    shards = open_shards(str(tmp_path / "out"))
    assert {shard.split: shard.count for shard in shards.shards} == {"test": 1, "train": 3, "val": 1}
    rows = [json.loads(ShardReader(shards).read(n, "json")) for n in range(5)]
    assert next(row for row in rows if row["image_id"] == "aa") == {
        **METADATA["aa"],
        "image_id": "aa",
        "source": "aa.jpg",
        "original_size": [48, 36],
        "class_name": "Lactuca virosa L.",
        "label": 0,
    }


def test_labels_of_observations_are_joined_to_all_their_photographs(
    plantnet: Callable[..., Path], tmp_path: Path, umbel: Callable[..., Any]
) -> None:
    (tmp_path / "votes.csv").write_text("observation,label\n7,Abies alba Mill.\n")
    command = ["shards", "make", "plantnet300k", plantnet(), "--out", tmp_path / "out"]
    code, out, _ = umbel(*command, "--labels", tmp_path / "votes.csv")
    assert code == 0
    assert "joined by observation id: 1 of 5 photographs have one" in out
    assert sorted(open_shards(str(tmp_path / "out")).members["label"].tolist()) == [-1, -1, -1, -1, 1]


def test_labels_are_the_same_where_species_are_left_away(plantnet: Callable[..., Path]) -> None:
    root = plantnet()
    for split in ("train", "test"):
        shutil.rmtree(root / "images" / split)
    found = read_plantnet300k(root)
    assert found.classes == ("Lactuca virosa L.", "Abies alba Mill.")
    assert [row.label for row in found.splits["val"]] == [1]


def test_changed_metadata_make_another_source(plantnet: Callable[..., Path]) -> None:
    root = plantnet()
    first = read_plantnet300k(root).fingerprint
    (root / "plantnet300K_metadata.json").write_text(json.dumps(METADATA | {"aa": {"organ": "bark"}}))
    assert read_plantnet300k(root).fingerprint != first


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("plantnet300K_metadata.json", "{", "cannot be read"),
        ("plantnet300K_metadata.json", "[]", "is not a JSON object"),
        ("plantnet300K_metadata.json", '{"aa": 1}', "does not describe images"),
        ("plantnet300K_species_id_2_name.json", "{", "cannot be read"),
    ],
)
def test_damaged_files_are_named(name: str, text: str, words: str, plantnet: Callable[..., Path]) -> None:
    root = plantnet()
    (root / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name}.* {words}|{name} {words}"):
        read_plantnet300k(root)


def test_metadata_without_image_ids_are_named(plantnet: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"plantnet300K_metadata.csv has no column of image ids \(image_id, id"):
        read_plantnet300k(plantnet(metadata="observation"))


def test_another_folder_is_refused(photographs: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="holds no images/train"):
        read_plantnet300k(photographs(["rosa/a.jpg"]))
    with pytest.raises(UserError, match="holds no photographs"):
        read_plantnet300k(photographs({"train/notes.txt": b""}, "other"))
