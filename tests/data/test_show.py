"""`umbel shards show`: its figures against plain ones, and a sheet on which every photograph stands where it should."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from umbel.data.contact_sheet import GAP, TILE, TITLE, Row, contact_sheet, label_font, shortened
from umbel.data.index import open_shards
from umbel.data.reader import ShardReader

Foreign = Callable[..., Path]
Umbel = Callable[..., Any]
Refused = Callable[..., str]
WriteTar = Callable[[Path, Mapping[str, bytes]], Path]


def test_the_figures_are_those_of_the_pixels(foreign_shards: Foreign, umbel: Umbel, tmp_path: Path) -> None:
    folder = foreign_shards(shards=2, count=4)
    foreign_shards(shards=1, count=3, split="val", width=60, height=20)
    (folder / "classes.txt").write_text("rosa\nsalvia\nviola\nrubus\n")
    code, out, _ = umbel("shards", "show", folder, "--out", tmp_path / "sheet.png", "--json")
    assert code == 0
    facts = json.loads(out)
    shards = open_shards(str(folder))
    reader = ShardReader(shards)
    images = [np.asarray(Image.open(io.BytesIO(reader.read(n, "jpg")))) for n in range(11)]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    found = facts["photographs"]
    assert found["mean"] == pytest.approx(pixels.mean(0), abs=2e-3)
    assert found["std"] == pytest.approx(pixels.std(0), abs=2e-3)
    assert found["width"] == [48, 48, 48, 54, 60]
    assert found["height"] == [20, 28, 36, 36, 36]
    assert found["bytes"][0] == min(len(reader.read(n, "jpg")) for n in range(11))
    assert (found["count"], found["bad"]) == (11, 0)
    assert facts["splits"] == {"train": 8, "val": 3}
    assert list(facts["classes"].items()) == [("rosa", 4), ("salvia", 4), ("viola", 3), ("rubus", 0)]
    assert (facts["shards"], facts["images"]) == (3, 11)


def test_the_table_tells_the_same(foreign_shards: Foreign, umbel: Umbel, tmp_path: Path) -> None:
    folder = foreign_shards()
    code, out, _ = umbel("shards", "show", folder, "--out", tmp_path / "sheet.png")
    assert code == 0
    assert "2 shards, 8 images (train 8)" in out
    assert "3 classes; images of a class: least 2, quartiles 2 3 3, most 3" in out
    assert "        3  class 0" in out
    assert "8 photographs drawn; least, quartiles, greatest:" in out


def test_the_sample_is_drawn_by_the_seed(foreign_shards: Foreign, umbel: Umbel, tmp_path: Path) -> None:
    folder = foreign_shards(shards=1, count=30)

    def mean(seed: int) -> list[float]:
        flags = ("--out", tmp_path / "sheet.png", "--sample", 5, "--seed", seed, "--json")
        facts = json.loads(umbel("shards", "show", folder, *flags).out)
        assert facts["photographs"]["count"] == 5
        found: list[float] = facts["photographs"]["mean"]
        return found

    assert mean(0) == mean(0) != mean(1)


def test_every_photograph_stands_under_its_title() -> None:
    def plain(level: int, height: int = 40, width: int = 40) -> torch.Tensor:
        return torch.full((3, height, width), level, dtype=torch.uint8)

    rows = [
        Row(title="first", photographs=[plain(10), plain(20), plain(30)]),
        Row(title="second", photographs=[plain(40, 80, 400)]),
    ]
    sheet = np.asarray(contact_sheet(rows, columns=2))[..., 0]
    step, middle = TILE + GAP, GAP + TILE // 2
    first = GAP + TITLE
    second = first + 2 * step + TITLE
    assert sheet[first + TILE // 2, middle] == 10
    assert sheet[first + TILE // 2, middle + step] == 20
    assert sheet[first + step + TILE // 2, middle] == 30
    assert sheet[first + step + TILE // 2, middle + step] == 255
    assert sheet[second + TILE // 2, middle] == 40
    assert sheet[second + TILE // 2, GAP] == 40  # the whole width of a wide one,
    assert sheet[second + 4, middle] == 235  # and gray above it
    assert sheet.shape == (second + step, 2 * step + GAP)


def test_a_sheet_shows_large_and_small_classes(
    tmp_path: Path, jpeg: Callable[..., bytes], write_tar: WriteTar, umbel: Umbel, monkeypatch: pytest.MonkeyPatch
) -> None:
    members: dict[str, bytes] = {}
    for label, count in enumerate((1, 9, 5, 7, 3)):
        for n in range(count):
            members |= {f"{label}_{n}.jpg": jpeg(n), f"{label}_{n}.cls": str(label).encode()}
    write_tar(tmp_path / "train-000000.tar", members)
    titles: list[str] = []

    def noted(rows: list[Row], *, columns: int) -> Image.Image:
        titles.extend(f"{row.title} ({len(row.photographs)})" for row in rows)
        return contact_sheet(rows, columns=columns)

    monkeypatch.setattr("umbel.data.show.contact_sheet", noted)
    flags = ("--classes", 3, "--columns", 4, "--out", tmp_path / "sheet.png")
    assert umbel("shards", "show", tmp_path, *flags).code == 0
    assert titles == ["class 1: 9 images (4)", "class 2: 5 images (4)", "class 0: 1 images (1)"]


def test_photographs_without_labels_stand_in_one_block(
    tmp_path: Path, jpeg: Callable[..., bytes], write_tar: WriteTar, umbel: Umbel
) -> None:
    write_tar(tmp_path / "unlabeled-000000.tar", {f"{n}.jpg": jpeg(n) for n in range(5)})
    code, out, _ = umbel("shards", "show", tmp_path, "--out", tmp_path / "sheet.png", "--columns", 3)
    assert code == 0
    assert "no classes" in out
    assert Image.open(tmp_path / "sheet.png").size == (3 * (TILE + GAP) + GAP, 2 * (TILE + GAP) + TITLE + GAP)


def test_damaged_photographs_are_counted(
    tmp_path: Path, jpeg: Callable[..., bytes], write_tar: WriteTar, umbel: Umbel, refused: Refused
) -> None:
    write_tar(tmp_path / "one" / "train-000000.tar", {"a.jpg": jpeg(1), "b.jpg": b"\xff\xd8no"})
    out = umbel("shards", "show", tmp_path / "one", "--out", tmp_path / "sheet.png").out
    assert "2 photographs drawn, 1 of them damaged" in out
    write_tar(tmp_path / "all" / "train-000000.tar", {"b.jpg": b"\xff\xd8no"})
    assert "none of the 1 photographs" in refused("shards", "show", tmp_path / "all", "--out", tmp_path / "sheet.png")


def test_a_long_or_foreign_name_fits_the_sheet() -> None:
    font = label_font()
    assert font.getlength(shortened("Taraxacum officinale " * 20, font, 200)) <= 200
    assert shortened("Taraxacum " * 20, font, 200).endswith("...")
    assert shortened("Mentha × piperita", font, 400) == "Mentha × piperita"
    assert shortened("Käsemalve\nČeská", font, 400) == "Käsemalve Česká"
    assert shortened("蒲公英", font, 400) == "???"


def test_no_other_file_is_replaced(foreign_shards: Foreign, refused: Refused, tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    Image.new("RGB", (3, 3)).save(mine)
    before = mine.read_bytes()
    assert "is no sheet of Umbel's" in refused("shards", "show", foreign_shards(), "--out", mine)
    assert mine.read_bytes() == before
    assert "must end in .png" in refused("shards", "show", tmp_path / "foreign", "--out", tmp_path / "mine.jpg")


def test_classes_of_one_name_are_told_apart(
    tmp_path: Path, jpeg: Callable[..., bytes], write_tar: WriteTar, umbel: Umbel
) -> None:
    members = {f"{n}.jpg": jpeg(n) for n in range(3)} | {f"{n}.cls": str(min(n, 1)).encode() for n in range(3)}
    write_tar(tmp_path / "train-000000.tar", members)
    (tmp_path / "classes.txt").write_text("Rosa\nRosa\n")
    facts = json.loads(umbel("shards", "show", tmp_path, "--out", tmp_path / "sheet.png", "--json").out)
    assert facts["classes"] == {"Rosa (label 1)": 2, "Rosa (label 0)": 1}


def test_a_sheet_that_no_memory_holds_is_refused(foreign_shards: Foreign, refused: Refused, tmp_path: Path) -> None:
    flags = ("--out", tmp_path / "sheet.png", "--columns", 100_000)
    assert "columns must be at most 100, not 100000" in refused("shards", "show", foreign_shards(), *flags)


def test_a_picture_of_absurd_size_is_another_file(foreign_shards: Foreign, refused: Refused, tmp_path: Path) -> None:
    header = struct.pack(">II", 60_000, 60_000) + b"\x08\x02\x00\x00\x00"
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "bomb.png").write_bytes(bomb)
    said = refused("shards", "show", foreign_shards(), "--out", tmp_path / "bomb.png")
    assert "is no sheet of Umbel's" in said
    assert (tmp_path / "bomb.png").read_bytes() == bomb
