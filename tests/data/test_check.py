"""`umbel shards check`: a sound set is described, and every kind of fault is found."""

import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from umbel.data.index import open_shards

Foreign = Callable[..., Path]
Made = Callable[..., Path]
Umbel = Callable[..., Any]
Refused = Callable[..., str]


def test_a_sound_set_is_described(made_shards: Made, umbel: Umbel) -> None:
    folder = made_shards()
    code, out, _ = umbel("shards", "check", folder)
    assert code == 0
    assert "2 shards, 6 samples (train 6), 2 classes." in out
    assert "6 of 36 x 48" in out
    assert "no faults." in out


def test_foreign_shards_are_described_split_by_split(foreign_shards: Foreign, umbel: Umbel) -> None:
    folder = foreign_shards()
    foreign_shards(shards=1, count=3, split="val")
    code, out, _ = umbel("shards", "check", folder)
    assert code == 0
    assert "3 shards, 11 samples (train 8, val 3), 3 classes." in out


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def test_a_flipped_byte_is_found(made_shards: Made, refused: Refused) -> None:
    folder = made_shards()
    members = open_shards(str(folder)).members
    flip(folder / "train-000000.tar", int(members["jpg_offset"][1] + members["jpg_bytes"][1]) - 30)
    assert "train-000000.tar: its sha256 differs from the index" in refused("shards", "check", folder)


def test_a_flipped_byte_behind_the_last_sample_is_found(made_shards: Made, refused: Refused) -> None:
    folder = made_shards()
    path = folder / "train-000001.tar"
    flip(path, path.stat().st_size - 1)
    assert "sha256 differs" in refused("shards", "check", folder)


def test_a_flipped_byte_in_a_header_is_found(made_shards: Made, refused: Refused) -> None:
    folder = made_shards()
    flip(folder / "train-000000.tar", 3)
    assert "train-000000.tar" in refused("shards", "check", folder)


def test_members_that_moved_are_found(made_shards: Made, umbel: Umbel) -> None:
    """A tar of the same size with other members, under the old index."""
    folder = made_shards()
    first, second = folder / "train-000000.tar", folder / "train-000001.tar"
    size = first.stat().st_size
    content = second.read_bytes()
    assert len(content) == size
    first.write_bytes(content)
    code, out, _ = umbel("shards", "check", folder)
    assert code == 2
    assert "fault: train-000000.tar: its sha256 differs from the index" in out
    assert "fault: train-000000.tar: its members differ from the index" in out


def rewrite(path: Path, change: Callable[[str, bytes], bytes], write_tar: Callable[..., Path]) -> None:
    with tarfile.open(path) as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    write_tar(path, {name: change(name, content) for name, content in members.items()})


def test_a_truncated_photograph_is_found_and_named(
    foreign_shards: Foreign, write_tar: Callable[..., Path], refused: Refused
) -> None:
    folder = foreign_shards()
    name = "train_00005.jpg"
    rewrite(folder / "train-000001.tar", lambda n, c: c[: len(c) // 2] if n == name else c, write_tar)
    sentence = refused("shards", "check", folder)
    assert "train-000001.tar: train_00005: it cannot be decoded" in sentence


def test_a_key_that_stands_in_two_shards_is_found(
    tmp_path: Path, write_tar: Callable[[Path, Mapping[str, bytes]], Path], jpeg: Callable[..., bytes], refused: Refused
) -> None:
    write_tar(tmp_path / "train-000000.tar", {"a.jpg": jpeg(1), "b.jpg": jpeg(2)})
    write_tar(tmp_path / "train-000001.tar", {"b.jpg": jpeg(3)})
    assert "key b stands 2 times" in refused("shards", "check", tmp_path)


def test_a_label_without_a_name_is_found(foreign_shards: Foreign, refused: Refused) -> None:
    folder = foreign_shards()
    (folder / "classes.txt").write_text("rosa\nsalvia\n")
    assert "label 2 has no name: classes.txt has 2 lines" in refused("shards", "check", folder)


@pytest.mark.parametrize("made", [True, False])
def test_a_cut_shard_is_found(made: bool, made_shards: Made, foreign_shards: Foreign, refused: Refused) -> None:
    folder = made_shards() if made else foreign_shards()
    path = folder / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:1300])
    assert "train-000000.tar is cut off" in refused("shards", "check", folder)


def test_all_faults_are_counted_and_the_first_twenty_told(
    tmp_path: Path, write_tar: Callable[..., Path], umbel: Umbel
) -> None:
    write_tar(tmp_path / "train-000000.tar", {f"k{n:02d}.jpg": b"no photograph" for n in range(25)})
    code, out, err = umbel("shards", "check", tmp_path)
    assert code == 2
    assert "25 faults, the first: train-000000.tar: k00: it is not a JPEG" in err
    assert out.count("fault: ") == 20


@pytest.mark.parametrize("what", ["nowhere", "empty", "photographs"])
def test_what_holds_no_shards_is_named(
    what: str, tmp_path: Path, photographs: Callable[..., Path], refused: Refused
) -> None:
    (tmp_path / "empty").mkdir()
    photographs(["a.jpg"])
    assert f"{what}: there are no shards" in refused("shards", "check", tmp_path / what)


def test_an_empty_set_is_refused(tmp_path: Path, write_tar: Callable[..., Path], umbel: Umbel) -> None:
    write_tar(tmp_path / "train-000000.tar", {})
    code, _, err = umbel("shards", "check", tmp_path)
    assert code == 2
    assert "the shards hold no photographs" in err


def test_the_flowers_are_sound(shared_data: Path, umbel: Umbel) -> None:
    code, out, err = umbel("shards", "check", shared_data / "flowers" / "train-000005.tar")
    assert code == 0, err
    assert "no faults." in out
