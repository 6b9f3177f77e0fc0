"""`umbel shards check`: copies within a set, across its splits and against another set are told, and are no faults."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umbel.data import survey as survey_module
from umbel.data.index import open_shards

Jpeg = Callable[..., bytes]
WriteTar = Callable[[Path, Mapping[str, bytes]], Path]
Umbel = Callable[..., Any]
Refused = Callable[..., str]


def recompressed(jpg: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpg)).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def smooth(seed: int) -> bytes:
    """A picture that no other seed gives, with enough detail for the fine bits."""
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((96, 72), 3).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def sets(tmp_path: Path, write_tar: WriteTar) -> tuple[Path, Path]:
    """Pretraining and evaluation shards with known copies."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"

    def told(observation: object) -> bytes:
        return json.dumps({"observation": observation}).encode()

    train = {f"t{n}.jpg": smooth(n) for n in range(6)}
    train |= {"t1.json": told(11), "t2.json": told("twelve"), "t3.json": told(None), "t4.json": b"[1]"}
    train |= {"copy.jpg": smooth(0), "near.jpg": recompressed(smooth(1))}
    write_tar(mine / "train-000000.tar", train)
    test = {"q0.jpg": smooth(50), "q1.jpg": recompressed(smooth(2)), "q0.json": told(11), "q1.json": told(99)}
    write_tar(mine / "test-000000.tar", test)
    other = {
        "a.jpg": smooth(3),
        "b.jpg": recompressed(smooth(50)),
        "c.jpg": smooth(70),
        "c.json": b'{"obs_id": "twelve"}',
    }
    write_tar(theirs / "test-000000.tar", other)
    return mine, theirs


def test_copies_within_a_set_and_across_its_splits_are_told(sets: tuple[Path, Path], umbel: Umbel) -> None:
    code, out, _ = umbel("shards", "check", sets[0])
    assert code == 0
    assert "photographs of train that repeat earlier ones: 1 byte for byte, 1 nearly." in out
    assert "  copy is t0 (0 of 256 bits differ)" in out
    assert "photographs of test also in train: 0 byte for byte, 1 nearly." in out
    assert "observations of test also in train: 1 (photographs of theirs: 1; the first: 11)." in out
    assert "no faults." in out
    assert "theirs" not in out.replace("photographs of theirs", "")


def test_the_table_names_every_copy_in_the_other_set(sets: tuple[Path, Path], umbel: Umbel, tmp_path: Path) -> None:
    table = tmp_path / "not" / "there" / "copies.csv"
    code, out, _ = umbel("shards", "check", sets[0], "--against", sets[1], "--out", table)
    assert code == 0
    assert f"photographs of train also in {sets[1]} (test): 1 byte for byte, 0 nearly." in out
    assert f"observations of train also in {sets[1]} (test): 1 (photographs of theirs: 1; the first: twelve)." in out
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["key"], row["repeats_key"], row["of"], row["same_bytes"]) for row in rows}
    mine, theirs = map(str, sets)
    assert found == {
        ("copy", "t0", mine, "yes"),
        ("near", "t1", mine, "no"),
        ("q1", "t2", mine, "no"),
        ("t3", "a", theirs, "yes"),
        ("q0", "b", theirs, "no"),
    }
    assert {row["split"] for row in rows if row["key"].startswith("q")} == {"test"}


def test_processes_do_not_change_what_is_found(sets: tuple[Path, Path], umbel: Umbel, tmp_path: Path) -> None:
    tables = []
    for workers in (1, 2):
        table = tmp_path / f"{workers}.csv"
        assert umbel("shards", "check", sets[0], "--out", table, "--workers", workers).code == 0
        tables.append(table.read_bytes())
    assert tables[0] == tables[1]
    assert tables[0].count(b"\n") == 4


def test_distance_bounds_what_is_near(sets: tuple[Path, Path], umbel: Umbel, refused: Refused) -> None:
    out = umbel("shards", "check", sets[0], "--distance", 0).out
    assert "nearly" not in out.replace("1 byte for byte, 0 nearly", "")
    assert "distance must lie between 0 and 127 bits, not 128" in refused("shards", "check", sets[0], "--distance", 128)


def test_a_set_without_copies_says_so(foreign_shards: Callable[..., Path], umbel: Umbel) -> None:
    assert "no duplicates." in umbel("shards", "check", foreign_shards()).out


def test_a_damaged_photograph_is_a_fault_and_no_copy(
    foreign_shards: Callable[..., Path], write_tar: WriteTar, umbel: Umbel
) -> None:
    folder = foreign_shards(shards=1, count=1, width=64)
    write_tar(folder / "train-000001.tar", {"x.jpg": b"\xff\xd8broken", "y.jpg": b"\xff\xd8broken"})
    code, out, err = umbel("shards", "check", folder)
    assert code == 2
    assert "no duplicates." in out
    assert "2 faults" in err


def test_a_pass_in_portions_names_the_damaged_ones(
    tmp_path: Path, write_tar: WriteTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "CHUNK", 2)
    members = {f"{n}.jpg": b"\xff\xd8no" if n in (1, 4) else smooth(n) for n in range(5)}
    write_tar(tmp_path / "train-000000.tar", members)
    found = survey_module.survey(open_shards(str(tmp_path)), workers=0, title="reading")
    assert list(found.faults) == [1, 4]
    assert found.sound.tolist() == [True, False, True, True, False]


def test_no_other_file_is_replaced_by_the_table(sets: tuple[Path, Path], refused: Refused, tmp_path: Path) -> None:
    mine = tmp_path / "notes.csv"
    mine.write_text("key,value\n")
    assert "is no table of duplicates" in refused("shards", "check", sets[0], "--out", mine)
    assert mine.read_text() == "key,value\n"


def test_a_missing_second_set_is_named(sets: tuple[Path, Path], refused: Refused, tmp_path: Path) -> None:
    assert "nowhere" in refused("shards", "check", sets[0], "--against", tmp_path / "nowhere")
