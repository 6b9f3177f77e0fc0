"""Writing shards: what a sample becomes in the tar, how a plan is cut, what an interrupted folder is told by."""

import json
import tarfile
from pathlib import Path

import pytest
import webdataset

from umbel.data.index import open_shards
from umbel.data.write import Sample, plan_shards, write_shards


class MakeSample:
    """Makes samples of numbers; odd ones of ten are bad."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, number: int) -> Sample | str:
        self.made.append(number)
        if number % 10 == 9:
            return "it wilted"
        return Sample(key=f"n{number}", jpg=b"\xff\xd8" + bytes([number]), label=number % 2, metadata={"é": number})


def write(out: Path, make: MakeSample, count: int = 8, **settings: object) -> dict[str, str]:
    keywords = {"source": {"of": count}, "classes": ["a", "b"], "workers": 1, "max_bad": 1.0, "force": False}
    return write_shards(
        out,
        plan_shards("train", range(count), 4),
        make,
        title="writing",
        **(keywords | settings),  # type: ignore[arg-type]
    )


def test_a_plan_holds_every_item_once_in_order() -> None:
    plan = plan_shards("val", list("abcdefg"), 3)
    assert [(shard.name, "".join(shard.items)) for shard in plan] == [
        ("val-000000.tar", "abc"),
        ("val-000001.tar", "def"),
        ("val-000002.tar", "g"),
    ]
    assert plan_shards("val", [], 3) == []


def test_members_of_a_sample(tmp_path: Path) -> None:
    write(tmp_path / "out", MakeSample())
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        assert tar.getnames()[:3] == ["n0.jpg", "n0.cls", "n0.json"] or set(tar.getnames()[:3]) == {
            "n0.jpg",
            "n0.cls",
            "n0.json",
        }
        assert {member.mtime for member in tar} == {0}
        read = {name: tar.extractfile(name).read() for name in tar.getnames()[:3]}  # type: ignore[union-attr]
    assert read == {"n0.jpg": b"\xff\xd8\x00", "n0.cls": b"0", "n0.json": '{"é": 0}'.encode()}


def test_a_bare_sample_has_its_photograph_alone() -> None:
    assert Sample(key="k", jpg=b"x").members() == {"__key__": "k", "jpg": b"x"}
    assert Sample(key="k", jpg=b"x", text="é").members()["txt"] == "é".encode()


def test_webdataset_reads_what_is_written(tmp_path: Path) -> None:
    write(tmp_path / "out", MakeSample())
    found = list(webdataset.WebDataset(str(tmp_path / "out" / "train-{000000..000001}.tar"), shardshuffle=False))
    assert [row["__key__"] for row in found] == [f"n{n}" for n in range(8)]
    assert [row["cls"] for row in found] == [b"0", b"1"] * 4


def test_a_finished_shard_is_not_made_again(tmp_path: Path) -> None:
    out, first, second = tmp_path / "out", MakeSample(), MakeSample()
    write(out, first, 20)
    (out / "index.json").unlink()
    (out / "train-000001.tar").unlink()
    for name in ("000000", "000002", "000003", "000004"):
        (out / f".train-{name}.tar.bad").write_text("{}")
    write(out, second, 20)
    assert first.made == list(range(20))
    assert second.made == [4, 5, 6, 7]


def test_bad_items_of_an_earlier_start_are_remembered(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    class StopsAt(MakeSample):
        def __call__(self, number: int) -> Sample | str:
            if number == 13:
                raise Stopped
            return super().__call__(number)

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        write(out, StopsAt(), 20)
    assert not (out / "index.json").exists()
    assert write(out, MakeSample(), 20) == {"9": "it wilted", "19": "it wilted"}
    assert json.loads((out / "bad.json").read_text()) == {"9": "it wilted", "19": "it wilted"}
    assert len(open_shards(str(out))) == 18


def test_a_failure_in_a_shard_leaves_no_shard_of_that_name(tmp_path: Path) -> None:
    class Fails(MakeSample):
        def __call__(self, number: int) -> Sample | str:
            if number == 2:
                raise OSError(28, "No space left on device")
            return super().__call__(number)

    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "out", Fails())
    assert not list((tmp_path / "out").glob("train-*.tar"))


def test_a_shard_whose_list_of_bad_items_was_lost_is_made_again_or_named(tmp_path: Path) -> None:
    """A folder copied without its hidden files and without its index."""
    out = tmp_path / "out"
    write(out, MakeSample())
    (out / "index.json").unlink()
    assert write(out, MakeSample()) == {}
    assert len(open_shards(str(out))) == 8
