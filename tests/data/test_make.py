"""`umbel shards make`: the same bytes from any number of workers, interruptions healed, bad photographs named."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umbel.data.index import find_shards, open_shards
from umbel.data.make import MakeFolderConfig, MakeSyntheticConfig, make_folder, make_synthetic
from umbel.run import UserError

Photographs = Callable[..., Path]
Content = Callable[[Path], dict[str, bytes | None]]
Jpeg = Callable[..., bytes]
NAMES = [f"{name}/{number}.jpg" for name in ("rosa", "salvia") for number in range(4)]


def make(source: Path, out: Path, **settings: Any) -> Path:
    make_folder(MakeFolderConfig(data=source, out=out, **({"shard_size": 3, "workers": 1} | settings)))
    return out


def test_a_folder_of_shards_holds_these_files(photographs: Photographs, tmp_path: Path, content: Content) -> None:
    out = make(photographs(NAMES), tmp_path / "out")
    assert sorted(content(out)) == [
        "bad.json",
        "classes.txt",
        "index.json",
        "keys.npy",
        "members.npy",
        "source.json",
        "train-000000.tar",
        "train-000001.tar",
        "train-000002.tar",
    ]
    assert [shard.count for shard in open_shards(str(out)).shards] == [3, 3, 2]
    assert json.loads((out / "bad.json").read_text()) == {}
    assert (out / "classes.txt").read_text() == "rosa\nsalvia\n"


def test_one_worker_and_three_write_the_same_bytes(photographs: Photographs, tmp_path: Path, content: Content) -> None:
    source = photographs(NAMES)
    assert content(make(source, tmp_path / "one")) == content(make(source, tmp_path / "three", workers=3))


def test_classes_are_mixed_over_shards_by_the_seed(photographs: Photographs, tmp_path: Path) -> None:
    source = photographs([f"{c}/{n}.jpg" for c in "abc" for n in range(10)])
    shards = open_shards(str(make(source, tmp_path / "out", shard_size=15)))
    assert len(set(shards.members["label"][:15].tolist())) == 3
    other = open_shards(str(make(source, tmp_path / "other", shard_size=15, seed=1)))
    assert shards.keys.tolist() != other.keys.tolist()
    assert sorted(shards.keys.tolist()) == sorted(other.keys.tolist())


def test_every_split_has_its_own_shards(photographs: Photographs, tmp_path: Path) -> None:
    source = photographs([f"{s}/rosa/{n}.jpg" for s in ("train", "test") for n in range(4)] + ["unlabelled/u.jpg"])
    out = make(source, tmp_path / "out")
    names = [path.name for path in find_shards(str(out))]
    assert names == [
        "test-000000.tar",
        "test-000001.tar",
        "train-000000.tar",
        "train-000001.tar",
        "unlabeled-000000.tar",
    ]
    assert json.loads((out / "index.json").read_text())["splits"] == {"test": 4, "train": 4, "unlabeled": 1}


def test_the_split_of_flat_photographs_may_be_chosen(photographs: Photographs, tmp_path: Path) -> None:
    out = make(photographs(["a.jpg"]), tmp_path / "out", split="val")
    assert [path.name for path in find_shards(str(out))] == ["val-000000.tar"]
    assert not (out / "classes.txt").exists()


@pytest.mark.parametrize("split", ["my split", "", "a/b", "train-2", "../x"])
def test_a_split_that_makes_no_shard_name_is_refused_at_once(
    split: str, photographs: Photographs, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="split"):
        make(photographs(["a.jpg"]), tmp_path / "out", split=split)
    assert not (tmp_path / "out").exists()


def test_the_same_command_again_changes_nothing(photographs: Photographs, tmp_path: Path) -> None:
    source = photographs(NAMES)
    out = make(source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    make(source, out, workers=2, max_bad=0.5)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize("settings", [{"quality": 50}, {"seed": 1}, {"shorter_side": 20}, {"shard_size": 2}])
def test_other_settings_are_refused_and_nothing_changes(
    settings: dict[str, int], photographs: Photographs, tmp_path: Path, content: Content
) -> None:
    source = photographs(NAMES)
    before = content(make(source, tmp_path / "out"))
    with pytest.raises(UserError, match="made from another source or with other settings"):
        make(source, tmp_path / "out", **settings)
    assert content(tmp_path / "out") == before


def test_other_photographs_are_refused(photographs: Photographs, tmp_path: Path, refused: Callable[..., str]) -> None:
    source = photographs(NAMES)
    make(source, tmp_path / "out")
    (source / "rosa" / "0.jpg").unlink()
    sentence = refused("shards", "make", "folder", source, "--out", tmp_path / "out", "--shard-size", 3)
    assert "choose another --out, or --force" in sentence


def test_force_moves_the_old_folder_aside(photographs: Photographs, tmp_path: Path, content: Content) -> None:
    source = photographs(NAMES)
    before = content(make(source, tmp_path / "out"))
    make(source, tmp_path / "out", quality=50, force=True)
    assert content(tmp_path / "out.old-1") == before
    assert len(open_shards(str(tmp_path / "out"))) == 8


def test_a_strangers_folder_is_refused(photographs: Photographs, tmp_path: Path, content: Content) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="holds other files"):
        make(photographs(NAMES), out)
    assert content(out) == {"thesis.tex": b"dear"}


def test_a_file_in_the_place_of_out_is_refused(photographs: Photographs, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("dear")
    with pytest.raises(UserError):
        make(photographs(NAMES), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "dear"


def test_force_never_moves_the_photographs_themselves_aside(
    photographs: Photographs, content: Content, tmp_path: Path
) -> None:
    source = photographs(NAMES)
    before = content(source)
    for out in (source, tmp_path):
        with pytest.raises(UserError):
            make(source, out, force=True)
        assert content(source) == before


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["rosa", "rosa/deep", "new", "."])
def test_shards_are_not_made_among_the_photographs(
    name: str, force: bool, photographs: Photographs, content: Content, refused: Callable[..., str]
) -> None:
    source = photographs([*NAMES, "rosa/deep/a.jpg"])
    before = {path: path.stat().st_ino for path in source.rglob("*")}
    command = ["shards", "make", "folder", source, "--out", source / name, *(["--force"] if force else [])]
    assert f"lies in {source}, of which all photographs are read" in refused(*command)
    assert {path: path.stat().st_ino for path in source.rglob("*")} == before


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_force_does_not_move_what_links_lead_to(
    linked: str, photographs: Photographs, tmp_path: Path, content: Content, refused: Callable[..., str]
) -> None:
    source, out = photographs(NAMES), photographs(["rosa/a.jpg"], "out")
    if linked == "folder":
        (source / "acer").symlink_to(out / "rosa")
    else:
        (source / "rosa" / "link.jpg").symlink_to(out / "rosa" / "a.jpg")
    before = content(out)
    assert "would be moved aside" in refused("shards", "make", "folder", source, "--out", out, "--force")
    assert content(out) == before


@pytest.mark.parametrize(
    ("workers", "pending", "adds"), [(1, 0, 7), (1, 1 << 28, 16), (2, 0, 1), (2, 0, 17), (2, 20_000, 11)]
)
def test_killed_in_the_middle_and_started_again_it_writes_the_same_bytes(
    workers: int,
    pending: int,
    adds: int,
    photographs: Photographs,
    tmp_path: Path,
    content: Content,
    dying_umbel: Callable[..., Any],
) -> None:
    """A real process, killed by SIGKILL before it takes in a result: all saved, some, or nothing."""
    source = photographs([f"{name}/{number}.jpg" for name in "abc" for number in range(6)])
    undisturbed = content(make(source, tmp_path / "undisturbed"))
    out = tmp_path / "out"
    command = ["shards", "make", "folder", source, "--out", out, "--shard-size", 3, "--workers", workers]
    process = dying_umbel(*command, adds=adds, pending=pending)
    assert process.wait() == -signal.SIGKILL
    wait_for_end_of_group(process.pid)
    assert not (out / "index.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("train-*.tar")}
    assert len(finished) == {0: adds // 3, 20_000: 3, 1 << 28: 0}[pending]
    make(source, out)
    assert content(out) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def wait_for_end_of_group(group: int) -> None:
    """Wait until no process of a killed one's is left: its workers must notice."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("workers outlived the process that started them")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.0, 2.6, 3.2, 3.8, 4.4])
def test_killed_at_any_time_and_started_again_it_writes_the_same_bytes(
    seconds: float, photographs: Photographs, tmp_path: Path, content: Content, dying_umbel: Callable[..., Any]
) -> None:
    source = photographs([f"{name}/{number}.jpg" for name in "abc" for number in range(300)])
    undisturbed = content(make(source, tmp_path / "undisturbed", shard_size=40))
    out = tmp_path / "out"
    command = ["shards", "make", "folder", source, "--out", out, "--shard-size", 40, "--workers", 2]
    process = dying_umbel(*command, adds=10_000)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.wait()
    wait_for_end_of_group(process.pid)
    make(source, out, shard_size=40)
    assert content(out) == undisturbed


def test_ctrl_c_ends_in_a_word_and_the_same_command_goes_on(
    photographs: Photographs, tmp_path: Path, content: Content, dying_umbel: Callable[..., Any]
) -> None:
    source = photographs([f"{name}/{number}.jpg" for name in "abc" for number in range(6)])
    out = tmp_path / "out"
    command = ["shards", "make", "folder", source, "--out", out, "--shard-size", 3, "--workers", 2]
    process = dying_umbel(*command, adds=7, signal="SIGINT")
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "umbel: interrupted."
    assert "Traceback" not in said
    assert len(list(out.glob("train-*.tar"))) == 2
    assert content(make(source, out)) == content(make(source, tmp_path / "undisturbed"))


def with_bad(good: int, bad: int, jpeg: Jpeg) -> dict[str, bytes]:
    files = {f"good{n:03d}.jpg": jpeg(n) for n in range(good)}
    return files | {f"bad{n:03d}.jpg": jpeg(n)[:100] for n in range(bad)}


def test_few_bad_photographs_are_left_out_and_named(
    photographs: Photographs, jpeg: Jpeg, tmp_path: Path, umbel: Callable[..., Any]
) -> None:
    source = photographs(with_bad(99, 1, jpeg))
    code, out, _ = umbel("shards", "make", "folder", source, "--out", tmp_path / "out", "--shard-size", 40)
    assert code == 0
    assert "left out" in out
    assert "bad000.jpg" in out
    named = json.loads((tmp_path / "out" / "bad.json").read_text())
    assert list(named) == [str(source / "bad000.jpg")]
    assert len(open_shards(str(tmp_path / "out"))) == 99
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_many_bad_photographs_stop_it_in_a_sentence(
    workers: int, photographs: Photographs, jpeg: Jpeg, tmp_path: Path, refused: Callable[..., str]
) -> None:
    source, out = photographs(with_bad(98, 2, jpeg)), tmp_path / "out"
    command = ["shards", "make", "folder", source, "--out", out, "--shard-size", 40, "--workers", workers]
    sentence = refused(*command)
    assert "bad00" in sentence
    assert "2 of 100 photographs are bad" in sentence
    assert not (out / "index.json").exists()


def test_asked_again_many_bad_photographs_stop_it_again(
    photographs: Photographs, jpeg: Jpeg, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """Shards that are done count too: the share of bad photographs must not depend on how often one asks."""
    source, out = photographs(with_bad(9, 1, jpeg)), tmp_path / "out"
    command = ["shards", "make", "folder", source, "--out", out, "--shard-size", 40, "--workers", 1]
    refused(*command)
    refused(*command)
    assert not (out / "index.json").exists()


def test_raising_the_share_goes_on_where_it_stopped(photographs: Photographs, jpeg: Jpeg, tmp_path: Path) -> None:
    source, out = photographs(with_bad(9, 3, jpeg)), tmp_path / "out"
    with pytest.raises(UserError):
        make(source, out)
    make(source, out, max_bad=0.5)
    assert len(json.loads((out / "bad.json").read_text())) == 3
    assert len(open_shards(str(out))) == 9


def test_a_folder_of_nothing_but_bad_photographs_is_refused_whatever_the_share(
    photographs: Photographs, jpeg: Jpeg, tmp_path: Path
) -> None:
    with pytest.raises(UserError):
        make(photographs(with_bad(0, 3, jpeg)), tmp_path / "out", max_bad=1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shard_size": 0}, "--shard-size must be at least 1, not 0"),
        ({"quality": 0}, "--quality must lie between 1 and 100"),
        ({"quality": 101}, "--quality must lie between 1 and 100"),
        ({"max_bad": 1.5}, "--max-bad is a share between 0 and 1"),
        ({"max_bad": float("nan")}, "--max-bad is a share between 0 and 1"),
        ({"shorter_side": 4}, "--shorter-side must be at least 8 pixels"),
        ({"workers": -3}, "--workers"),
    ],
)
def test_a_setting_out_of_range_is_named(
    settings: dict[str, Any], words: str, photographs: Photographs, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        make(photographs(["a.jpg"]), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def plants(out: Path, **settings: Any) -> Path:
    make_synthetic(MakeSyntheticConfig(out=out, **({"train": 5, "test": 3, "size": 32, "workers": 1} | settings)))
    return out


def test_synthetic_plants_come_with_labels_captions_and_metadata(tmp_path: Path) -> None:
    from umbel.data.reader import ShardReader

    shards = open_shards(str(plants(tmp_path / "out", shard_size=2)))
    assert [(s.split, s.count) for s in shards.shards] == [
        ("test", 2),
        ("test", 1),
        ("train", 2),
        ("train", 2),
        ("train", 1),
    ]
    assert len(shards.classes) == 24
    reader = ShardReader(shards)
    for sample in range(len(shards)):
        name = shards.classes[shards.members["label"][sample]]
        assert reader.read(sample, "txt").decode().startswith(f"{name}, ")
        assert isinstance(json.loads(reader.read(sample, "json")), dict)
    assert len({reader.read(n, "jpg") for n in range(len(shards))}) == 8


def test_synthetic_plants_are_the_same_from_any_number_of_workers(tmp_path: Path, content: Content) -> None:
    one, two = plants(tmp_path / "one", shard_size=3), plants(tmp_path / "two", shard_size=3, workers=2)
    assert content(one) == content(two)


@pytest.mark.parametrize("settings", [{"train": 0}, {"test": -1}, {"size": 8}, {"size": 5000}, {"seed": -1}])
def test_synthetic_settings_out_of_range_are_named(settings: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(settings))}"):
        plants(tmp_path / "out", **settings)
