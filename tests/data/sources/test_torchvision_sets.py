"""torchvision's sets of plants: read by torchvision itself from folders laid out as it lays them; missing ones told."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from scipy.io import savemat
from torchvision.datasets import Flowers102, inaturalist

from umbel.data.index import open_shards
from umbel.data.reader import ShardReader

Photographs = Callable[..., Path]
Umbel = Callable[..., Any]
SPECIES = [
    "00000_Animalia_Chordata_Aves_Passeriformes_Paridae_Parus_major",
    "00001_Plantae_Tracheophyta_Magnoliopsida_Asterales_Asteraceae_Bellis_perennis",
    "00002_Plantae_Tracheophyta_Magnoliopsida_Rosales_Rosaceae_Rosa_canina",
]


@pytest.fixture
def flowers(photographs: Photographs, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight photographs as Oxford 102 Flowers: 4 for training, 2 for validation, 2 for testing."""
    root = photographs([f"flowers-102/jpg/image_{n:05d}.jpg" for n in range(1, 9)])
    folder = root / "flowers-102"
    savemat(folder / "imagelabels.mat", {"labels": [[1, 102, 1, 2, 3, 102, 1, 2]]})
    savemat(folder / "setid.mat", {"trnid": [[8, 1, 3, 5]], "valid": [[2, 4]], "tstid": [[6, 7]]})
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in ("imagelabels.mat", "setid.mat")}
    files = {"label": ("imagelabels.mat", sums["imagelabels.mat"]), "setid": ("setid.mat", sums["setid.mat"])}
    monkeypatch.setattr(Flowers102, "_file_dict", Flowers102._file_dict | files)
    return root


@pytest.fixture
def inat(photographs: Photographs) -> Path:
    """Two photographs of each of three species, as a version of iNaturalist 2021."""
    return photographs([f"2021_train_mini/{name}/{n}.jpg" for name in SPECIES for n in "ab"], "inat")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def samples(folder: Path) -> dict[str, tuple[str, int, str, dict[str, Any]]]:
    """File name -> split, label, class and JSON."""
    shards = open_shards(str(folder))
    found = {}
    for n, member in enumerate(shards.members):
        row = json.loads(ShardReader(shards).read(n, "json"))
        label = int(member["label"])
        name = row["source"] if "taxonomy" not in row else f"{row['class_name']}/{row['source']}"
        found[name] = (shards.shards[member["shard"]].split, label, shards.classes[label], row)
    return found


def test_flowers_keep_their_splits_labels_and_names(flowers: Path, tmp_path: Path, umbel: Umbel) -> None:
    assert umbel("shards", "make", "flowers102", flowers, "--out", tmp_path / "out").code == 0
    found = {name: row[:3] for name, row in samples(tmp_path / "out").items()}
    assert found == {
        "image_00008.jpg": ("train", 1, "hard-leaved pocket orchid"),
        "image_00001.jpg": ("train", 0, "pink primrose"),
        "image_00003.jpg": ("train", 0, "pink primrose"),
        "image_00005.jpg": ("train", 2, "canterbury bells"),
        "image_00002.jpg": ("val", 101, "blackberry lily"),
        "image_00004.jpg": ("val", 1, "hard-leaved pocket orchid"),
        "image_00006.jpg": ("test", 101, "blackberry lily"),
        "image_00007.jpg": ("test", 0, "pink primrose"),
    }
    assert len(open_shards(str(tmp_path / "out")).classes) == 102


def test_inaturalists_plants_come_with_their_taxonomy(inat: Path, tmp_path: Path, umbel: Umbel) -> None:
    code, out, _ = umbel("shards", "make", "inaturalist", inat, "--out", tmp_path / "out")
    assert code == 0
    assert "2 species of kingdom Plantae among 3; 4 of 6 images" in out
    found = samples(tmp_path / "out")
    assert {name: row[:2] for name, row in found.items()} == {
        "Bellis perennis/a.jpg": ("train", 0),
        "Bellis perennis/b.jpg": ("train", 0),
        "Rosa canina/a.jpg": ("train", 1),
        "Rosa canina/b.jpg": ("train", 1),
    }
    assert found["Rosa canina/a.jpg"][3]["taxonomy"] == {
        "kingdom": "Plantae",
        "phylum": "Tracheophyta",
        "class": "Magnoliopsida",
        "order": "Rosales",
        "family": "Rosaceae",
        "genus": "Rosa",
        "specific_epithet": "canina",
        "name": "Rosa canina",
    }


def test_another_taxon_and_another_version_may_be_taken(inat: Path, tmp_path: Path, umbel: Umbel) -> None:
    (inat / "2021_train_mini").rename(inat / "2021_valid")
    command = ["shards", "make", "inaturalist", inat, "--out", tmp_path / "out", "--version", "2021_valid"]
    assert umbel(*command, "--taxon", "class=Aves").code == 0
    assert {row[:3] for row in samples(tmp_path / "out").values() if row} == {("val", 0, "Parus major")}


@pytest.mark.parametrize(("name", "folder"), [("flowers102", "flowers-102"), ("inaturalist", "2021_train_mini")])
def test_what_is_not_there_is_not_downloaded_unasked(
    name: str, folder: str, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("something was downloaded")

    monkeypatch.setattr("urllib.request.urlopen", fetched)
    (tmp_path / "data").mkdir()
    for data in (tmp_path / "data", tmp_path / "none"):
        sentence = refused("shards", "make", name, data, "--out", tmp_path / "out")
        assert f"{data} holds no {folder}: give the folder that does, or --download to fetch it." in sentence
        assert not (tmp_path / "none").exists()
    assert not list((tmp_path / "data").iterdir())
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("name", "folder"), [("flowers102", "flowers-102"), ("inaturalist", "2021_train_mini")])
def test_a_download_that_fails_is_told(name: str, folder: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    sentence = refused("shards", "make", name, tmp_path / "data", "--out", tmp_path / "out", "--download")
    assert f"{folder} could not be downloaded into {tmp_path / 'data'}" in sentence
    assert "no route to host" in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_network")
def test_what_is_there_is_not_downloaded_again(flowers: Path, tmp_path: Path, umbel: Umbel) -> None:
    assert umbel("shards", "make", "flowers102", flowers, "--out", tmp_path / "out", "--download").code == 0


def test_half_a_set_is_told(flowers: Path, inat: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (flowers / "flowers-102" / "setid.mat").write_bytes(b"half")
    sentence = refused("shards", "make", "flowers102", flowers, "--out", tmp_path / "out")
    assert "flowers-102 is not whole" in sentence
    shutil.rmtree(inat / "2021_train_mini" / SPECIES[0])
    sentence = refused("shards", "make", "inaturalist", inat, "--out", tmp_path / "out")
    assert "2021_train_mini is not whole (Unexpected category id 00001, expecting 00000)" in sentence


def test_torchvision_knows_the_versions_that_we_offer() -> None:
    assert {"2021_train", "2021_train_mini", "2021_valid"} <= set(inaturalist.DATASET_URLS)
