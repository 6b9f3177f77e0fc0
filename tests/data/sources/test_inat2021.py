"""iNaturalist 2021: the taxon's species, from folders or archives, with whose the photographs are."""

import gzip
import io
import json
import random
import shutil
import signal
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from umbel.data import unfinished
from umbel.data.index import open_shards
from umbel.data.photograph import find_photographs
from umbel.data.reader import ShardReader
from umbel.data.sources.inat2021 import MakeInat2021Config, make_inat2021
from umbel.data.sources.inat2021_json import Annotations
from umbel.data.sources.taxon import Taxon
from umbel.run import UserError

Jpeg = Callable[..., bytes]
Content = Callable[[Path], dict[str, bytes | None]]
LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus")
SPECIES = [
    ("Animalia", "Chordata", "Aves", "Passeriformes", "Paridae", "Parus", "major"),
    ("Plantae", "Tracheophyta", "Magnoliopsida", "Asterales", "Asteraceae", "Bellis", "perennis"),
    ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Rosaceae", "Rosa", "canina"),
    ("Fungi", "Basidiomycota", "Agaricomycetes", "Agaricales", "Amanitaceae", "Amanita", "muscaria"),
    ("Plantae", "Tracheophyta", "Magnoliopsida", "Asterales", "Asteraceae", "Achillea", "millefolium"),
]
LICENSES = [{"id": 0, "name": "CC0", "url": "u"}, {"id": 1, "name": "Attribution", "url": "u"}]


def category(number: int) -> dict[str, object]:
    *levels, epithet = SPECIES[number]
    return {
        "id": number,
        "name": f"{levels[-1]} {epithet}",
        "common_name": f"Common {epithet}",
        "supercategory": "Plants",
        "specific_epithet": epithet,
        "image_dir_name": f"{number:05d}_{'_'.join(SPECIES[number])}",
        **dict(zip(LEVELS, levels, strict=True)),
    }


def image(number: int, split: str, first: int, each: int) -> dict[str, object]:
    return {
        "id": first + number,
        "width": 48,
        "height": 36,
        "file_name": f"{split}/{category(number // each)['image_dir_name']}/{split}-{number:04x}.jpg",
        "license": number % 3,
        "rights_holder": f"Höłder {number % 2}",
        "date": "2018-09-18 10:52:00+00:00",
        "latitude": 37.5 if number % 2 else None,
        "longitude": -119.25 if number % 2 else None,
        "location_uncertainty": 977 if number % 4 == 1 else None,
    }


Competition = Callable[..., Path]


@pytest.fixture
def competition(tmp_path: Path, jpeg: Jpeg) -> Competition:
    """Write the files of the competition: `each` images of five species, and their JSON."""

    def write(split: str = "train", *, each: int = 6, first: int = 0, **changes: object) -> Path:
        root = tmp_path / "inat"
        images = [image(number, split, first, each) for number in range(5 * each)]
        for number, row in enumerate(images):
            file = root / str(row["file_name"])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(first + number))
        content = {
            "info": {"year": 2021},
            "images": images[::-1],
            "categories": [category(number) for number in (3, 1, 4, 0, 2)],
            "annotations": [
                {"id": 9_000 + n, "image_id": first + n, "category_id": n // each} for n in range(5 * each)
            ],
            "licenses": LICENSES,
        }
        (root / f"{split}.json").write_text(json.dumps(content | changes, ensure_ascii=False))
        return root

    return write


def archive(root: Path, split: str = "train", name: str = "train.tar.gz") -> Path:
    """Pack a split's folder as the competition does, and remove it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in find_photographs(root / split):
            tar.add(file, file.relative_to(root).as_posix())
    (root / name).write_bytes(gzip.compress(buffer.getvalue()) if name.endswith("gz") else buffer.getvalue())
    shutil.rmtree(root / split)
    return root / name


def make(*data: Path, out: Path, **settings: Any) -> Path:
    make_inat2021(MakeInat2021Config(data=data, out=out, **({"shard_size": 4, "workers": 1} | settings)))
    return out


def samples(folder: Path) -> dict[str, tuple[int, dict[str, Any], bytes]]:
    """Key -> label, JSON, photograph."""
    shards = open_shards(str(folder))
    reader = ShardReader(shards)
    return {
        shards.key(n): (
            int(shards.members["label"][n]),
            json.loads(reader.read(n, "json")),
            reader.read(n, "jpg"),
        )
        for n in range(len(shards))
    }


def test_plants_are_taken_with_taxonomy_license_and_holder(
    competition: Competition, tmp_path: Path, jpeg: Jpeg, capsys: pytest.CaptureFixture[str]
) -> None:
    root = competition()
    out = make(root / "train.json", out=tmp_path / "out")
    found = samples(out)
    assert sorted(found) == [f"inat2021_{n:07d}" for n in (*range(6, 18), *range(24, 30))]
    label, row, jpg = found["inat2021_0000024"]
    assert label == 2
    assert jpg == jpeg(24)
    assert row == {
        "image_id": 24,
        "label": 2,
        "class_name": "Achillea millefolium",
        "taxonomy": {
            "kingdom": "Plantae",
            "phylum": "Tracheophyta",
            "class": "Magnoliopsida",
            "order": "Asterales",
            "family": "Asteraceae",
            "genus": "Achillea",
            "name": "Achillea millefolium",
            "specific_epithet": "millefolium",
            "common_name": "Common millefolium",
            "supercategory": "Plants",
        },
        "license": "CC0",
        "rights_holder": "Höłder 0",
        "date": "2018-09-18 10:52:00+00:00",
        "source": "train-0018.jpg",
        "original_size": [48, 36],
    }
    assert open_shards(str(out)).classes == ("Bellis perennis", "Rosa canina", "Achillea millefolium")
    assert json.loads((out / "licenses.json").read_text()) == {
        "format": 1,
        "licenses": {"CC0": 6, "Attribution": 6, "license 2": 6},
        "rights_holders": {"Höłder 0": 9, "Höłder 1": 9},
    }
    said = capsys.readouterr().out
    assert "train: 3 species of kingdom Plantae (the competition: 4,271) among 5; 18 of 30 images" in said
    assert "license: 6 photographs: Attribution" in said
    assert "licenses: 3, rights holders: 2; counted in" in said


def test_coordinates_are_kept_when_asked_for_alone(competition: Competition, tmp_path: Path) -> None:
    root = competition()
    where = {"latitude", "longitude", "location_uncertainty"}
    assert not any(where & set(row) for _, row, _ in samples(make(root / "train.json", out=tmp_path / "a")).values())
    found = samples(make(root / "train.json", out=tmp_path / "b", keep_location=True))
    rows = [found[f"inat2021_{n:07d}"][1] for n in (6, 7, 9)]
    assert [{name: row[name] for name in where & set(row)} for row in rows] == [
        {},
        {"latitude": 37.5, "longitude": -119.25},
        {"latitude": 37.5, "longitude": -119.25, "location_uncertainty": 977},
    ]


@pytest.mark.parametrize(
    ("taxon", "names"),
    [
        ("family=Asteraceae", ["Bellis perennis", "Achillea millefolium"]),
        ("name=Rosa canina", ["Rosa canina"]),
        ("kingdom=Fungi", ["Amanita muscaria"]),
        ("supercategory=Plants", ["Parus major", "Bellis perennis", "Rosa canina", "Amanita muscaria"]),
    ],
)
def test_any_taxon_may_be_taken(taxon: str, names: list[str], competition: Competition, tmp_path: Path) -> None:
    out = make(competition() / "train.json", out=tmp_path / "out", taxon=taxon)
    assert list(open_shards(str(out)).classes[: len(names)]) == names
    assert {row["class_name"] for _, row, _ in samples(out).values()} >= set(names)


@pytest.mark.parametrize("name", ["train.tar.gz", "train.tgz", "train.tar"])
def test_an_archive_gives_the_samples_of_its_folder(name: str, competition: Competition, tmp_path: Path) -> None:
    root = competition()
    by_folder = samples(make(root / "train.json", out=tmp_path / "folder"))
    archive(root, name=name)
    by_archive = make(root / "train.json", out=tmp_path / "archive")
    assert samples(by_archive) == by_folder
    for folder in ("folder", "archive"):
        shards = open_shards(str(tmp_path / folder))
        assert [len(set(shards.members["label"][n : n + 4])) > 1 for n in range(0, 16, 4)] == [True] * 4
    assert {s.path.name: s.count for s in shards.shards} == {
        s.path.name: s.count for s in open_shards(str(tmp_path / "folder")).shards
    }


def test_any_number_of_workers_writes_the_same_bytes(
    competition: Competition, tmp_path: Path, content: Content
) -> None:
    root = competition(each=10)
    archive(root)
    one = content(make(root / "train.json", out=tmp_path / "one"))
    assert content(make(root / "train.json", out=tmp_path / "three", workers=3)) == one


def test_train_and_val_go_into_one_folder(competition: Competition, tmp_path: Path) -> None:
    root = competition()
    competition("val", each=1, first=100)
    archive(root)
    out = make(root / "train.json", root / "val.json", out=tmp_path / "out")
    assert json.loads((out / "index.json").read_text())["splits"] == {"train": 18, "val": 3}
    assert samples(out)["inat2021_0000102"][:1] == (1,)


def test_the_small_training_set_is_of_split_train(competition: Competition, tmp_path: Path) -> None:
    root = competition("train_mini", each=1)
    out = make(root / "train_mini.json", out=tmp_path / "out")
    assert json.loads((out / "index.json").read_text())["splits"] == {"train": 3}
    again = make(root / "train_mini.json", out=tmp_path / "other", split="unlabeled", images=root)
    assert json.loads((again / "index.json").read_text())["splits"] == {"unlabeled": 3}


def test_the_folder_of_images_may_lie_elsewhere(competition: Competition, tmp_path: Path) -> None:
    root = competition()
    expected = samples(make(root / "train.json", out=tmp_path / "beside"))
    (root / "train").rename(tmp_path / "photographs")
    found = make(root / "train.json", out=tmp_path / "elsewhere", images=tmp_path / "photographs")
    assert samples(found) == expected
    # Where they lie is no setting of the shards.
    make(root / "train.json", out=tmp_path / "beside", images=tmp_path / "photographs")


@pytest.mark.parametrize(("workers", "adds"), [(1, 3), (2, 10), (1, 17)])
def test_killed_while_streaming_and_started_again_it_writes_the_same_bytes(
    workers: int,
    adds: int,
    competition: Competition,
    tmp_path: Path,
    content: Content,
    dying_umbel: Callable[..., Any],
) -> None:
    root = competition()
    archive(root)
    undisturbed = content(make(root / "train.json", out=tmp_path / "undisturbed"))
    out = tmp_path / "out"
    command = ["shards", "make", "inat2021", root / "train.json", "--out", out, "--shard-size", 4, "--workers", workers]
    assert dying_umbel(*command, adds=adds).wait() == -signal.SIGKILL
    assert json.loads((out / ".journal.json").read_text())["taken"] == adds
    assert content(make(root / "train.json", out=out)) == undisturbed


def test_what_was_cut_off_goes_on_when_the_rest_is_there(
    competition: Competition, tmp_path: Path, content: Content, refused: Callable[..., str]
) -> None:
    root = competition()
    path = archive(root, name="train.tar")
    whole = path.read_bytes()
    undisturbed = content(make(root / "train.json", out=tmp_path / "undisturbed"))
    path.write_bytes(whole[: len(whole) // 2])
    command = ["shards", "make", "inat2021", root / "train.json", "--out", tmp_path / "out", "--shard-size", 4]
    assert "train.tar is cut off after" in refused(*command, "--workers", 1)
    taken = json.loads((tmp_path / "out" / ".journal.json").read_text())["taken"]
    assert 5 <= taken <= 12
    path.write_bytes(whole)
    assert content(make(root / "train.json", out=tmp_path / "out")) == undisturbed


def test_of_a_damaged_archive_nothing_is_kept(
    competition: Competition, tmp_path: Path, content: Content, refused: Callable[..., str], monkeypatch: Any
) -> None:
    """Its checksum stands at the end: what came before may be wrong."""
    monkeypatch.setattr(unfinished, "PENDING_BYTES", 0)
    root = competition()
    path = archive(root)
    whole = path.read_bytes()
    undisturbed = content(make(root / "train.json", out=tmp_path / "undisturbed"))
    path.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])
    command = ["shards", "make", "inat2021", root / "train.json", "--out", tmp_path / "out", "--shard-size", 4]
    assert "train.tar.gz is damaged" in refused(*command)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["source.json"]
    path.write_bytes(whole)
    assert content(make(root / "train.json", out=tmp_path / "out")) == undisturbed


def test_other_annotations_or_another_archive_are_another_source(competition: Competition, tmp_path: Path) -> None:
    root = competition()
    archive(root)
    out = make(root / "train.json", out=tmp_path / "out")
    told, packed = (root / "train.json").read_text(), (root / "train.tar.gz").read_bytes()
    make(root / "train.json", out=out)
    (root / "train.json").write_text(told.replace("Attribution", "All rights reserved"))
    with pytest.raises(UserError, match="another source"):
        make(root / "train.json", out=out)
    (root / "train.json").write_text(told)
    (root / "train.tar.gz").write_bytes(gzip.compress(gzip.decompress(packed), 1))
    with pytest.raises(UserError, match="another source"):
        make(root / "train.json", out=out)


def test_photographs_that_are_missing_are_bad_ones(
    competition: Competition, tmp_path: Path, refused: Callable[..., str]
) -> None:
    root = competition()
    for file in find_photographs(root / "train" / str(category(2)["image_dir_name"]))[:2]:
        file.unlink()
    folder = make(root / "train.json", out=tmp_path / "folder", max_bad=0.2)
    archive(root)
    streamed = make(root / "train.json", out=tmp_path / "archive", max_bad=0.2)
    by_folder, by_archive = (json.loads((out / "bad.json").read_text()) for out in (folder, streamed))
    assert [Path(name).name for name in by_folder] == [Path(name).name for name in by_archive]
    assert set(by_archive.values()) == {"it is not in train.tar.gz"}
    assert len(samples(folder)) == len(samples(streamed)) == 16
    sentence = refused("shards", "make", "inat2021", root / "train.json", "--out", tmp_path / "no")
    assert "2 of 18 photographs are bad" in sentence


def test_annotations_say_what_the_whole_json_says_in_a_fraction_of_the_memory(tmp_path: Path) -> None:
    dice = random.Random(0)
    count = 20_000
    rows = [image(n, "train", 10 * count, count // 5) | {"id": 10 * count - 7 * n} for n in range(count)]
    species = [dice.randrange(5) for _ in rows]
    content = {
        "images": rows,
        "categories": [category(number) for number in range(5)],
        "annotations": [{"image_id": row["id"], "category_id": species[n]} for n, row in enumerate(rows)],
        "licenses": LICENSES,
    }
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    expected = {row["id"]: row["file_name"] for n, row in enumerate(rows) if species[n] in (1, 2, 4)}
    labels = {row["id"]: {1: 0, 2: 1, 4: 2}.get(species[n]) for n, row in enumerate(rows)}
    del content, rows
    peaks = {}
    for way in ("stream", "whole"):
        tracemalloc.start()
        if way == "stream":
            found = Annotations(path, Taxon.parse("kingdom=Plantae"), keep_location=True)
        else:
            json.loads(path.read_bytes())
        peaks[way] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert {found.ids[n]: found.file_name(n) for n in range(len(found))} == expected
    assert all(found.categories[found.category_ids[n]].label == labels[found.ids[n]] for n in range(len(found)))
    assert (found.all_images, found.all_categories) == (count, 5)
    assert peaks["stream"] < peaks["whole"] / 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON, or cut off"),
        ("hello", "is not JSON, or cut off"),
        ('{"categories": [{"id": 0', "is not JSON, or cut off"),
        ("[]", "holds no categories"),
        ("{}", "holds no categories"),
        ('{"categories": [1]}', "is not the competition's"),
        ('{"categories": [{"id": 0, "kingdom": "Plantae"}]}', "is not the competition's.*'name'"),
        ('{"categories": [{"id": 0, "kingdom": "Plantea", "name": "x"}]}', "did you mean 'Plantea'"),
        ('{"categories": [{"id": 0, "kingdom": "Fungi", "name": "x"}]}', "there are 1: Fungi"),
        ('{"categories": [{"id": 0, "kingdom": "Plantae", "name": "x"}]}', "annotates no image of kingdom Plantae"),
        (b'{"categories": [{"id": 0, "name": "\xff\xff"}]}', "is not JSON, or cut off"),
    ],
)
def test_what_is_wrong_with_the_json_is_told(text: str | bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words) as caught:
        Annotations(path, Taxon.parse("kingdom=Plantae"), keep_location=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [{"id": 6}]},
        {"images": [{"id": "6", "file_name": "a/b.jpg"}]},
        {"images": [{"id": 6, "file_name": None}]},
        {"annotations": [{"image_id": 6}]},
        {"annotations": [{"image_id": "x", "category_id": 1}]},
        {"licenses": [{"id": 1}]},
    ],
    ids=str,
)
def test_entries_without_what_they_need_are_told(changes: dict[str, object], competition: Competition) -> None:
    path = competition(**changes) / "train.json"
    with pytest.raises(UserError, match="is not the competition's"):
        Annotations(path, Taxon.parse("kingdom=Plantae"), keep_location=True)


def test_what_is_wrong_with_the_command_line_is_told(
    competition: Competition, tmp_path: Path, refused: Callable[..., str]
) -> None:
    root = competition()
    out = ["--out", tmp_path / "out"]

    def told(*arguments: object) -> str:
        sentence = refused("shards", "make", "inat2021", *arguments, *out)
        assert not (tmp_path / "out").exists()
        return sentence

    train = root / "train.json"
    assert "give one of the competition's files" in told()
    assert "level=value" in told(train, "--taxon", "Plantae")
    assert "level=value" in told(train, "--taxon", "tribe=Cardueae")
    assert "did you mean 'Asteraceae'" in told(train, "--taxon", "family=Asteracaea")
    assert "cannot be read (No such file or directory)" in told(root / "train_mini.json", "--images", root)
    assert "train_mini.json: there are no photographs beside it" in told(root / "train_mini.json")
    assert "its name tells no split" in told(train.rename(root / "t.json"))
    train = (root / "t.json").rename(train)
    assert "a second file of split train" in told(train, train)
    assert "for a single JSON file" in told(train, root / "val.json", "--split", "val")
    assert "a split must be a word" in told(train, "--split", "my split")
    assert "holds no folder train/00004_Plantae" in told(train, "--images", tmp_path)
    assert "train.json is no archive (.tar.gz, .tar) and holds no folder" in told(train, "--images", train)
    (root / "other").mkdir()
    (root / "other" / "val.json").write_text(train.read_text().replace("Bellis", "Bellium"))
    shutil.copytree(root / "train", root / "other" / "val")
    assert "do not list the same species" in told(train, root / "other" / "val.json")


def test_a_photograph_turned_bad_is_named_by_its_path(competition: Competition, tmp_path: Path) -> None:
    root = competition()
    bad = find_photographs(root / "train" / str(category(4)["image_dir_name"]))[0]
    bad.write_bytes(b"hello")
    make(root / "train.json", out=tmp_path / "out", max_bad=0.2)
    assert json.loads((tmp_path / "out" / "bad.json").read_text()) == {str(bad): "it is not an image"}


def test_the_longer_side_may_be_bounded(competition: Competition, tmp_path: Path) -> None:
    out = make(competition() / "train.json", out=tmp_path / "out", longer_side=24)
    sizes = {Image.open(io.BytesIO(jpg)).size for _, _, jpg in samples(out).values()}
    assert sizes == {(24, 18)}


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_force_does_not_move_the_photographs_beside_the_json(
    kind: str, competition: Competition, refused: Callable[..., str]
) -> None:
    root = competition()
    if kind == "archive":
        archive(root, name="pictures.tar")
        (root / "out").mkdir()
        (root / "pictures.tar").rename(root / "out" / "train.tar")
        (root / "train.tar").symlink_to("out/train.tar")
    out = root / ("train" if kind == "folder" else "out")
    before = sorted(out.rglob("*"))
    assert "would be moved aside" in refused("shards", "make", "inat2021", root / "train.json", "--out", out, "--force")
    assert sorted(out.rglob("*")) == before
