"""Remote shards: read as local ones are, through a real server that fails, cuts off and refuses; pipe: refused."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umbel.data import remote, shard_cache, unreadable
from umbel.data.index import ShardSet, find_shards, open_shards
from umbel.data.index_file import write_index
from umbel.data.order import epoch_windows
from umbel.data.reader import ShardReader
from umbel.data.scan import scan_shard
from umbel.data.shard_cache import GIB
from umbel.data.training import TrainingDataset
from umbel.data.unreadable import UnreadableShardError
from umbel.run import UserError

Foreign = Callable[..., Path]
Made = Callable[..., Path]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreadable, "PAUSES", (0.01, 0.01, 0.01))


def contents(shards: ShardSet) -> list[tuple[str, bytes, int]]:
    reader = ShardReader(shards)
    labels = shards.members["label"].tolist()
    return [(shards.key(n), reader.read(n, "jpg"), labels[n]) for n in range(len(shards))]


def test_a_folder_with_its_index_is_read_as_the_local_one(server: Any, made_shards: Made) -> None:
    folder = made_shards()
    remote, local = open_shards(f"{server.url}/shards"), open_shards(str(folder))
    assert server.asked["train-000000.tar"] == 0  # the index is enough to open
    assert remote.fingerprint() == local.fingerprint()
    assert remote.classes == local.classes
    assert contents(remote) == contents(local)
    assert remote.folder == f"{server.url}/shards"


@pytest.mark.parametrize("end", ["/train-{000000..000001}.tar", "/train-00000{1,0}.tar", "/train-000001.tar"])
def test_a_pattern_with_an_index_beside_it(end: str, server: Any, made_shards: Made) -> None:
    folder = made_shards()
    assert contents(open_shards(f"{server.url}/shards{end}")) == contents(open_shards(f"{folder}{end}"))


def test_shards_without_an_index_are_fetched_scanned_and_kept(
    server: Any, foreign_shards: Foreign, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = foreign_shards()
    (folder / "classes.txt").write_text("rosa\nsalvia\nviola\n")
    for _ in range(2):
        remote = open_shards(f"{server.url}/foreign/train-{{000000..000001}}.tar")
        assert contents(remote) == contents(open_shards(str(folder)))
        assert remote.classes == ("rosa", "salvia", "viola")
    assert server.asked["train-000000.tar"] == server.asked["train-000001.tar"] == 1
    assert "gives no index.json: its shards are fetched and scanned" in capsys.readouterr().out


def test_a_folder_without_an_index_is_refused(server: Any, foreign_shards: Foreign) -> None:
    foreign_shards()
    with pytest.raises(UserError, match=r"gives no index\.json: give a brace pattern"):
        open_shards(f"{server.url}/foreign")


def test_an_index_that_changes_is_fetched_again(server: Any, made_shards: Made, tmp_path: Path) -> None:
    made_shards()
    first = open_shards(f"{server.url}/shards").fingerprint()
    (tmp_path / "shards").rename(tmp_path / "old")
    made_shards(shorter_side=20)
    assert open_shards(f"{server.url}/shards").fingerprint() != first


@pytest.mark.parametrize("name", ["members.npy", "keys.npy"])
def test_an_index_that_was_copied_in_part_is_said(name: str, server: Any, made_shards: Made) -> None:
    (made_shards() / name).unlink()
    with pytest.raises(UserError, match=rf"gives index\.json without {name}"):
        open_shards(f"{server.url}/shards")


@pytest.mark.parametrize("name", ["../train-000000.tar", "/etc/train-000000.tar", "plants.tar"])
def test_an_index_cannot_name_a_file_elsewhere(name: str, server: Any, made_shards: Made) -> None:
    path = made_shards() / "index.json"
    index = json.loads(path.read_text())
    index["shards"][0]["name"] = name
    path.write_text(json.dumps(index))
    with pytest.raises(UserError):
        open_shards(f"{server.url}/shards")


def test_an_index_with_pickled_objects_is_refused(server: Any, made_shards: Made) -> None:
    folder = made_shards()
    np.save(folder / "keys.npy", np.array([{"a": 1}] * 6, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"keys\.npy"):
        open_shards(f"{server.url}/shards")


@pytest.mark.parametrize("trouble", [["503", "503"], ["drop", "drop"], ["cut", "cut"], ["drop", "cut", "drop"]])
def test_a_server_that_fails_and_then_answers_is_waited_for(trouble: list[str], server: Any, made_shards: Made) -> None:
    folder = made_shards()
    shards = open_shards(f"{server.url}/shards")
    server.trouble["train-000000.tar"] = list(trouble)
    assert contents(shards) == contents(open_shards(str(folder)))
    assert server.asked["train-000000.tar"] == len(trouble) + 1


def test_a_server_that_is_cut_off_again_and_again_is_an_error_that_names_the_shard(
    server: Any, made_shards: Made, own_cache: Path
) -> None:
    made_shards()
    shards = open_shards(f"{server.url}/shards")
    server.trouble["train-000000.tar"] = ["cut"] * 9
    with pytest.raises(UnreadableShardError, match=r"train-000000\.tar cannot be read \(it was cut off in the middle"):
        contents(shards)
    assert server.asked["train-000000.tar"] == 4
    assert not list((own_cache / "umbel" / "shards").rglob("*train*"))


def test_a_shard_that_is_gone_is_an_error_that_names_it(server: Any, made_shards: Made) -> None:
    folder = made_shards()
    shards = open_shards(f"{server.url}/shards")
    (folder / "train-000001.tar").unlink()
    with pytest.raises(UnreadableShardError, match=r"train-000001\.tar cannot be read \(its server answers with an er"):
        contents(shards)


def test_a_server_that_is_not_there_is_said(server: Any) -> None:
    with pytest.raises(UserError, match="its host cannot be reached"):
        open_shards("http://127.0.0.1:9/shards")


def test_a_transfer_that_stands_still_is_given_up_and_tried_again(
    server: Any, made_shards: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made_shards()
    shards = open_shards(f"{server.url}/shards")
    monkeypatch.setattr(remote, "STALL_SECONDS", 0.3)
    server.trouble["train-000000.tar"] = ["stall"]
    assert contents(shards) == contents(open_shards(str(folder)))
    shutil.rmtree(shard_cache.cache_root() / "shards")
    server.trouble["train-000000.tar"] = ["stall"] * 4
    with pytest.raises(UnreadableShardError, match=r"nothing came for 0\.3 s"):
        contents(shards)


def test_a_shard_that_differs_from_its_index_is_refused(server: Any, made_shards: Made, own_cache: Path) -> None:
    folder = made_shards()
    shards = open_shards(f"{server.url}/shards")
    content = bytearray((folder / "train-000000.tar").read_bytes())
    content[2000] ^= 1
    (folder / "train-000000.tar").write_bytes(content)
    with pytest.raises(UnreadableShardError, match="its sha256 differs from the index"):
        contents(shards)
    (folder / "train-000000.tar").write_bytes(content[:-512])
    with pytest.raises(UnreadableShardError, match=r"bytes came, where its index has \d+"):
        contents(shards)


def test_a_copy_that_was_damaged_in_the_cache_is_fetched_anew(server: Any, made_shards: Made) -> None:
    made_shards()
    shards = open_shards(f"{server.url}/shards")
    expected = contents(shards)
    with shards.shards[0].path.open("rb+") as file:
        file.truncate(700)
    assert contents(shards) == expected
    assert server.asked["train-000000.tar"] == 2


def test_evaluation_and_check_read_a_url_as_a_folder(server: Any, made_shards: Made, umbel: Callable[..., Any]) -> None:
    folder = made_shards()
    code, out, err = umbel("shards", "check", f"{server.url}/shards")
    assert (code, err.count("Traceback")) == (0, 0), err
    assert out == umbel("shards", "check", folder).out


def test_a_shard_that_is_no_tar_is_named_by_its_url_and_fetched_again_when_mended(
    server: Any, foreign_shards: Foreign
) -> None:
    path = foreign_shards(shards=1) / "train-000000.tar"
    content = path.read_bytes()
    path.write_bytes(content[:1500])
    url = f"{server.url}/foreign/train-000000.tar"
    with pytest.raises(UserError, match=rf"^shard {url} is cut off or not a tar file"):
        open_shards(url)
    path.write_bytes(content)
    assert len(open_shards(url)) == 4


def test_two_pipes_of_one_name_are_refused(foreign_shards: Foreign) -> None:
    folder = foreign_shards()
    with pytest.raises(UserError, match="two of the URLs name the same shard"):
        open_shards(f"pipe:{{cat,tac}} {folder}/train-000000.tar", allow_pipe=True)


def test_the_next_windows_shards_are_fetched_before_they_are_wanted(server: Any, foreign_shards: Foreign) -> None:
    foreign_shards(shards=6, count=2)
    url = f"{server.url}/foreign/train-{{000000..000005}}.tar"
    open_shards(url)
    shutil.rmtree(shard_cache.cache_root() / "shards")
    server.asked.clear()
    data = TrainingDataset(open_shards(url), seed=0, canvas=64, window=2)
    windows = epoch_windows(np.full(6, 2), seed=0, epoch=0, window=2)
    data.__getitems__([0])
    wanted = {f"train-{shard:06d}.tar" for shard in windows[1]}
    deadline = time.monotonic() + 20
    while not wanted <= set(server.asked) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert wanted <= set(server.asked)
    assert not {f"train-{shard:06d}.tar" for shard in windows[2]} & set(server.asked)


@pytest.mark.parametrize(
    "data", ["pipe:cat {}/train-000000.tar", "pipe:touch {}/ran; cat {}/train-{{000000..000001}}.tar"]
)
def test_a_pipe_is_refused_and_not_run_unless_it_is_allowed(data: str, foreign_shards: Foreign) -> None:
    folder = foreign_shards()
    url = data.replace("{}", str(folder)).replace("{{", "{").replace("}}", "}")
    assert find_shards(url)
    with pytest.raises(UserError, match="a pipe: runs a shell command"):
        open_shards(url)
    assert not (folder / "ran").exists()
    shards = open_shards(url, allow_pipe=True)
    count = len(shards.shards)
    assert contents(shards) == contents(open_shards(str(folder)))[: 4 * count]


def test_a_rewritten_url_cannot_become_a_pipe(
    server: Any, made_shards: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made_shards()
    monkeypatch.setenv("GOPEN_REWRITE", f"http://.*=pipe:touch {tmp_path}/ran;")
    open_shards(f"{server.url}/shards")
    assert not (tmp_path / "ran").exists()


def test_s3_goes_through_the_aws_program(
    tmp_path: Path, foreign_shards: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of that name that copies from a folder stands in for it: no bucket can be reached from here."""
    folder = foreign_shards()
    program = tmp_path / "bin" / "aws"
    program.parent.mkdir()
    asked = '[ "$1 $2 $3 $5" = "s3 cp --only-show-errors -" ]'
    program.write_text(f'#!/bin/sh\n{asked} && exec cat "{folder}/${{4##*/}}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    shards = open_shards("s3://bucket/plants/train-{000000..000001}.tar")
    assert contents(shards) == contents(open_shards(str(folder)))


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs the program aws: install it"):
        open_shards("s3://bucket/plants/train-000000.tar")


def limited(server: Any, size: int) -> ShardSet:
    return open_shards(f"{server.url}/foreign/train-{{000000..000005}}.tar", cache_gib=size / GIB)


def kept(own_cache: Path) -> int:
    return sum(path.stat().st_size for path in (own_cache / "umbel" / "shards").glob("*/*.tar"))


def test_the_cache_stays_within_its_bound_and_evicts_the_least_recently_used(
    server: Any, foreign_shards: Foreign, own_cache: Path
) -> None:
    size = (foreign_shards(shards=6) / "train-000000.tar").stat().st_size
    shards = limited(server, 3 * size)
    reader = ShardReader(shards, window=1)
    server.asked.clear()
    first = np.cumsum([0, *(shard.count for shard in shards.shards)])
    for shard in (0, 1, 2, 0, 3, 0, 4):
        reader.read(int(first[shard]), "jpg")
        reader.keep(())  # what is open would not be evicted in any case
        assert kept(own_cache) <= 3 * size
    assert server.asked["train-000000.tar"] == 1  # used again and again, it outlived 1 and 2
    there = {path.name for path in (own_cache / "umbel" / "shards").glob("*/*.tar")}
    assert there == {"train-000000.tar", "train-000003.tar", "train-000004.tar"}


def test_a_shard_in_use_is_not_evicted_and_a_full_cache_is_said(
    server: Any, foreign_shards: Foreign, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (foreign_shards(shards=6) / "train-000000.tar").stat().st_size
    shards = limited(server, 3 * size)
    monkeypatch.setattr(shard_cache, "FULL_SECONDS", 0.5)
    reader = ShardReader(shards, window=6)
    for sample in (0, 4, 8):
        reader.read(sample, "jpg")
    with pytest.raises(UserError, match="is full of shards in use"):
        reader.read(12, "jpg")
    assert kept(own_cache) == 3 * size
    reader.keep({0, 1})
    assert reader.read(12, "jpg")
    assert {path.name for path in (own_cache / "umbel" / "shards").glob("*/*.tar")} == {
        f"train-00000{n}.tar" for n in (0, 1, 3)
    }


def test_what_a_killed_process_left_half_fetched_is_removed(
    server: Any, foreign_shards: Foreign, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "FULL_SECONDS", 0.5)
    size = (foreign_shards(shards=6) / "train-000000.tar").stat().st_size
    left = own_cache / "umbel" / "shards" / ("0" * 24) / ".train-000000.tar.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x" * 3 * size)
    contents(limited(server, 3 * size))
    assert not left.exists()


def test_many_processes_fetch_a_shard_once(server: Any, made_shards: Made) -> None:
    import multiprocessing

    made_shards()
    shards = open_shards(f"{server.url}/shards")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=contents, args=(shards,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert server.asked["train-000000.tar"] == server.asked["train-000001.tar"] == 1


@pytest.mark.parametrize("trouble", ["short", "page"])
@pytest.mark.parametrize("name", ["index.json", "members.npy", "keys.npy"])
def test_an_index_that_came_damaged_is_named_by_its_url_and_not_kept(
    name: str, trouble: str, server: Any, made_shards: Made, own_cache: Path
) -> None:
    folder = made_shards()
    server.trouble[name] = [trouble]
    with pytest.raises(UserError) as caught:
        open_shards(f"{server.url}/shards")
    assert f"the index {server.url}/shards/index.json" in str(caught.value)
    assert str(own_cache) not in str(caught.value)
    assert not [path for path in own_cache.rglob("*") if path.is_file()]
    assert contents(open_shards(f"{server.url}/shards")) == contents(open_shards(str(folder)))


def test_an_index_that_was_damaged_in_the_cache_is_fetched_anew(
    server: Any, made_shards: Made, own_cache: Path
) -> None:
    made_shards()
    expected = contents(open_shards(f"{server.url}/shards"))
    (kept,) = own_cache.rglob("members.npy")
    kept.write_bytes(kept.read_bytes()[:200])
    assert contents(open_shards(f"{server.url}/shards")) == expected
    assert server.asked["members.npy"] == 2
    assert len(open_shards(f"{server.url}/shards")) == len(expected)
    assert server.asked["members.npy"] == 2


def test_a_signed_url_is_a_shard(server: Any, foreign_shards: Foreign) -> None:
    folder = foreign_shards()
    shards = open_shards(f"{server.url}/foreign/train-{{000000..000001}}.tar?credential=a/b&sig=x.y")
    assert contents(shards) == contents(open_shards(str(folder)))
    assert [shard.path.name for shard in shards.shards] == ["train-000000.tar", "train-000001.tar"]
    assert shards.folder == f"{server.url}/foreign"


def test_a_signed_url_with_an_index_beside_it(server: Any, made_shards: Made) -> None:
    folder = made_shards()
    shards = open_shards(f"{server.url}/shards/train-000001.tar?sig=x")
    assert contents(shards) == contents(open_shards(f"{folder}/train-000001.tar"))


def test_what_is_no_shard_is_not_called_one(server: Any, foreign_shards: Foreign, made_shards: Made) -> None:
    """Nor is a way to go on told where there is none."""
    foreign_shards()
    for name, data in (("index.json", "foreign"), ("classes.txt", "foreign/train-000000.tar")):
        server.trouble[name] = ["drop"] * 4
        with pytest.raises(UserError) as caught:
            open_shards(f"{server.url}/{data}")
        folder = f"{server.url}/foreign"
        assert str(caught.value).startswith(
            f"{folder}/{name} cannot be read (its server answers nothing; tried 4 times"
        )
        assert "skip" not in str(caught.value)
    server.trouble["train-000000.tar"] = ["drop"] * 4
    with pytest.raises(UserError) as caught:
        open_shards(f"{server.url}/foreign/train-000000.tar")
    assert str(caught.value).startswith(f"shard {server.url}/foreign/train-000000.tar cannot be read (")
    assert "skip" not in str(caught.value)
    made_shards()
    shards = open_shards(f"{server.url}/shards")
    server.trouble["train-000000.tar"] = ["drop"] * 4
    with pytest.raises(UnreadableShardError, match=r"goes on without it by --reader\.unreadable-shards skip"):
        contents(shards)


def test_class_names_in_latin_1_on_a_server_are_said(server: Any, foreign_shards: Foreign) -> None:
    (foreign_shards() / "classes.txt").write_bytes("églantier\nsalvia\nviola\n".encode("latin-1"))
    with pytest.raises(UserError, match=rf"^{server.url}/foreign/classes\.txt is not UTF-8"):
        open_shards(f"{server.url}/foreign/train-000000.tar")


def test_an_empty_shard_is_checked_through_its_url(
    server: Any, made_shards: Made, write_tar: Callable[..., Path], umbel: Callable[..., Any]
) -> None:
    folder = made_shards()
    write_index(
        folder,
        [scan_shard(folder / "train-000000.tar"), scan_shard(write_tar(folder / "val-000000.tar", {}))],
        classes=["rosa", "salvia"],
    )
    (folder / "train-000001.tar").unlink()
    code, out, err = umbel("shards", "check", f"{server.url}/shards")
    assert (code, err.count("Traceback")) == (0, 0), err
    assert "no faults" in out
    assert server.asked["val-000000.tar"] == 1
