"""Writing shards: what a sample becomes in the tar, and a folder that survives kills and goes on where it was."""

import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset

from umbel.data import unfinished, write
from umbel.data.convert import Sample
from umbel.data.index import open_shards
from umbel.data.plan import SplitPlan
from umbel.data.write import write_shards
from umbel.run import UserError

Content = Callable[[Path], dict[str, bytes | None]]


class MakeSample:
    """Makes samples of numbers; odd ones of ten are bad."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, number: int) -> Sample | str:
        self.made.append(number)
        if number % 10 == 9:
            return "it wilted"
        return Sample(key=f"n{number}", jpg=b"\xff\xd8" + bytes([number]), label=number % 2, metadata={"é": number})


class Stopped(Exception):
    pass


class StopsAt(MakeSample):
    """Ends as a kill would at an item."""

    def __init__(self, number: int, error: BaseException | None = None) -> None:
        super().__init__()
        self.number, self.error = number, error or Stopped()

    def __call__(self, number: int) -> Sample | str:
        if number == self.number:
            raise self.error
        return super().__call__(number)


def make(out: Path, make_sample: MakeSample, count: int = 8, **settings: Any) -> dict[str, str]:
    """Write numbers that arrive as an archive's would: neighbors go into different shards, 4 in each."""
    order = [place for first in range(-(-count // 4)) for place in range(first, count, -(-count // 4))]
    plan = [Scattered(split="train", rows=range(count), order=order, shard_size=4)]
    keywords = {
        "source": {"source": "numbers", "of": count},
        "classes": ["a", "b"],
        "workers": 1,
        "max_bad": 1.0,
        "force": False,
    }
    return write_shards(out, plan, make_sample, title="writing", **(keywords | settings))  # type: ignore[arg-type]


class Scattered(SplitPlan):
    """Items arrive in the order of the rows, as out of an archive."""

    def items(self, skip: int = 0) -> Iterator[tuple[str, Any]]:
        ranks = {row: rank for rank, row in enumerate(self.order)}
        for row in range(skip, len(self.rows)):
            yield self.name(ranks[row]), self.rows[row]


@pytest.fixture
def saved_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal after every sample."""
    monkeypatch.setattr(unfinished, "PENDING_BYTES", 0)


def test_members_of_a_sample(tmp_path: Path) -> None:
    make(tmp_path / "out", MakeSample())
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        names = tar.getnames()
        assert set(names[:3]) == {"n0.jpg", "n0.cls", "n0.json"}
        assert {member.mtime for member in tar} == {0}
        read = {name: tar.extractfile(name).read() for name in names[:3]}  # type: ignore[union-attr]
    assert read == {"n0.jpg": b"\xff\xd8\x00", "n0.cls": b"0", "n0.json": '{"é": 0}'.encode()}
    # A header and a block of content a member, two blocks of zeros, filled up to whole records: nothing else.
    assert (tmp_path / "out" / "train-000000.tar").stat().st_size == 20480
    assert len(names) * 1024 + 1024 <= 20480


def test_a_bare_sample_has_its_photograph_alone() -> None:
    assert Sample(key="k", jpg=b"x").members() == {"__key__": "k", "jpg": b"x"}
    assert Sample(key="k", jpg=b"x", text="é").members()["txt"] == "é".encode()


def test_webdataset_reads_what_is_written(tmp_path: Path) -> None:
    make(tmp_path / "out", MakeSample())
    found = list(webdataset.WebDataset(str(tmp_path / "out" / "train-{000000..000001}.tar"), shardshuffle=False))
    assert [row["__key__"] for row in found] == [f"n{n}" for n in (0, 2, 4, 6, 1, 3, 5, 7)]
    assert [row["cls"] for row in found] == [b"0"] * 4 + [b"1"] * 4


@pytest.mark.usefixtures("saved_at_each")
@pytest.mark.parametrize("number", range(20))
def test_wherever_it_stops_it_goes_on_there_and_writes_the_same_bytes(
    number: int, tmp_path: Path, content: Content
) -> None:
    make(tmp_path / "undisturbed", MakeSample(), 20)
    out, second = tmp_path / "out", MakeSample()
    with pytest.raises(Stopped):
        make(out, StopsAt(number), 20)
    assert not (out / "index.json").exists()
    assert make(out, second, 20) == {"9": "it wilted", "19": "it wilted"}
    assert second.made == list(range(number, 20))
    assert content(out) == content(tmp_path / "undisturbed")
    assert len(open_shards(str(out))) == 18


def test_what_was_not_yet_saved_is_made_again(tmp_path: Path, content: Content) -> None:
    make(tmp_path / "undisturbed", MakeSample(), 20)
    out, second = tmp_path / "out", MakeSample()
    with pytest.raises(Stopped):
        make(out, StopsAt(13), 20)
    make(out, second, 20)
    assert second.made == list(range(20))
    assert content(out) == content(tmp_path / "undisturbed")


@pytest.mark.usefixtures("saved_at_each")
@pytest.mark.parametrize("every", [13, pytest.param(3, marks=pytest.mark.slow)])
def test_stopped_between_any_two_steps_of_saving_it_writes_the_same_bytes(
    every: int, tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th opening, syncing or renaming of a file is the last thing that the process does, for many n."""
    make(tmp_path / "undisturbed", MakeSample(), 20)
    for step in itertools.count(0, every):
        out = tmp_path / f"out{step}"
        with monkeypatch.context() as patch:
            left = itertools.count(step, -1)
            for owner, name in ((Path, "replace"), (Path, "open"), (os, "fsync")):
                patch.setattr(owner, name, stopping(getattr(owner, name), left))
            try:
                make(out, MakeSample(), 20)
                break
            except Stopped:
                pass
        journal, second = out / ".journal.json", MakeSample()
        taken = json.loads(journal.read_text())["taken"] if journal.exists() else 0
        make(out, second, 20)
        assert content(out) == content(tmp_path / "undisturbed"), step
        assert second.made == list(range(taken, 20)), step
    assert step > 150


def stopping(real: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    """A function of the system that is not reached any more when nothing is left."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        if next(left) <= 0:
            raise Stopped
        return real(*arguments, **keywords)

    return call


@pytest.mark.usefixtures("saved_at_each")
def test_what_the_journal_tells_of_is_durable_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill shows nothing of it, a power cut would: what grew is synced, then the folder, then the journal."""
    out, synced, sizes, journals = tmp_path / "out", [], {}, []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real_sync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        if target.name == ".journal.json":
            shards = {file.stat().st_ino: file.stat().st_size for file in out.glob("*train-*")}
            grown = {inode for inode, size in shards.items() if sizes.get(inode) != size}
            assert grown <= set(synced)
            last = max((place for place, inode in enumerate(synced) if inode in grown), default=-1)
            assert not grown or out.stat().st_ino in synced[last:]
            journals.append(len(grown))
            sizes.update(shards)
            synced.clear()
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    make(out, MakeSample(), 20)
    assert sum(journals) >= 18  # a bad one lets no shard grow, or ends it


@pytest.mark.usefixtures("saved_at_each")
def test_bytes_behind_the_journal_are_cut_off(tmp_path: Path, content: Content) -> None:
    make(tmp_path / "undisturbed", MakeSample(), 20)
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        make(out, StopsAt(13), 20)
    begun = sorted(out.glob(".train-*.tmp"))
    assert len(begun) == 5
    for path in begun:
        path.write_bytes(path.read_bytes() + b"half a sample" * 10_000)
    make(out, MakeSample(), 20)
    assert content(out) == content(tmp_path / "undisturbed")


@pytest.mark.usefixtures("saved_at_each")
@pytest.mark.parametrize("harm", ["gone", "shorter", "finished gone"])
def test_when_a_begun_shard_is_gone_all_are_made_again(
    harm: str, tmp_path: Path, content: Content, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "undisturbed", MakeSample(), 20)
    out, second = tmp_path / "out", MakeSample()
    with pytest.raises(Stopped):
        make(out, StopsAt(18), 20)
    begun, finished = sorted(out.glob(".train-*.tmp")), sorted(out.glob("train-*.tar"))
    assert begun
    assert finished
    match harm:
        case "gone":
            begun[0].unlink()
        case "shorter":
            begun[0].write_bytes(begun[0].read_bytes()[:-512])
        case "finished gone":
            finished[0].unlink()
    make(out, second, 20)
    assert "made again" in capsys.readouterr().out
    assert second.made == list(range(20))
    assert content(out) == content(tmp_path / "undisturbed")


@pytest.mark.usefixtures("saved_at_each")
@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "taken": "x", "shards": {}, "bad": {}}']
)
def test_a_damaged_journal_is_named(text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        make(out, StopsAt(5), 20)
    (out / ".journal.json").write_text(text)
    with pytest.raises(UserError, match=r"journal"):
        make(out, MakeSample(), 20)


@pytest.mark.usefixtures("saved_at_each")
def test_another_source_leaves_what_an_unfinished_one_made_until_it_is_forced(tmp_path: Path, content: Content) -> None:
    make(tmp_path / "undisturbed", MakeSample(), 8)
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        make(out, StopsAt(19), 20)
    before = content(out)
    with pytest.raises(UserError, match=r"unfinished shards .* another source .*: delete .*--force"):
        make(out, MakeSample(), 8)
    assert content(out) == before
    make(out, MakeSample(), 8, force=True)
    assert content(out) == content(tmp_path / "undisturbed")
    assert content(tmp_path / "out.old-1") == before


def test_finished_shards_without_an_index_are_not_thrown_away(tmp_path: Path, content: Content) -> None:
    make(tmp_path / "out", MakeSample(), 8)
    (tmp_path / "out" / "index.json").unlink()
    before = content(tmp_path / "out")
    with pytest.raises(UserError, match="unfinished"):
        make(tmp_path / "out", MakeSample(), 20)
    assert content(tmp_path / "out") == before


def test_a_folder_in_which_nothing_was_begun_is_taken_for_another_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bad"):
        make(tmp_path / "out", StopsAt(0, UserError("bad")), 20)
    assert make(tmp_path / "out", MakeSample(), 8) == {}


@pytest.mark.parametrize(
    "source", [b'{"url": "https://example.org"}', b"[1]", b"\xff\xfe", b"{", b'{"format": 1}', b"[" * 100_000]
)
def test_a_strangers_source_json_makes_no_folder_of_shards(source: bytes, tmp_path: Path, content: Content) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("precious.tar", "classes.txt", "bad.json", ".x.tar.tmp"):
        (out / name).write_bytes(b"dear")
    (out / "source.json").write_bytes(source)
    before = content(out)
    with pytest.raises(UserError, match="holds other files"):
        make(out, MakeSample())
    assert content(out) == before
    make(out, MakeSample(), force=True)
    assert content(tmp_path / "out.old-1") == before


def test_what_a_kill_left_of_a_file_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for again in (False, True):
        out.mkdir(exist_ok=True)
        (out / "..journal.json.123.tmp").write_bytes(b"{")
        (out / ".source.json.123.tmp").write_bytes(b"{")
        (out / ".members.npy.123.tmp").write_bytes(b"{")
        make(out, MakeSample())
        assert not list(out.glob(".*.tmp")), again


def test_ctrl_c_saves_what_was_made(tmp_path: Path, content: Content) -> None:
    make(tmp_path / "undisturbed", MakeSample(), 20)
    out, second = tmp_path / "out", MakeSample()
    with pytest.raises(KeyboardInterrupt):
        make(out, StopsAt(13, KeyboardInterrupt()), 20)
    make(out, second, 20)
    assert second.made == list(range(13, 20))
    assert content(out) == content(tmp_path / "undisturbed")


@pytest.mark.usefixtures("saved_at_each")
@pytest.mark.parametrize("every", [11, pytest.param(3, marks=pytest.mark.slow)])
def test_ctrl_c_in_the_middle_of_saving_loses_nothing(
    every: int, tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once interrupted at the n-th opening, syncing or renaming of a file, for many n."""
    make(tmp_path / "undisturbed", MakeSample(), 20)
    for step in range(0, 100, every):
        out = tmp_path / f"out{step}"
        with monkeypatch.context() as patch:
            left = itertools.count(step, -1)

            def interrupting(real: Callable[..., Any], left: Iterator[int] = left) -> Callable[..., Any]:
                def call(*arguments: Any, **keywords: Any) -> Any:
                    result = real(*arguments, **keywords)
                    if next(left) == 0:
                        raise KeyboardInterrupt
                    return result

                return call

            for owner, name in ((Path, "replace"), (Path, "open"), (os, "fsync")):
                patch.setattr(owner, name, interrupting(getattr(owner, name)))
            with pytest.raises(KeyboardInterrupt):
                make(out, MakeSample(), 20)
        make(out, MakeSample(), 20)
        assert content(out) == content(tmp_path / "undisturbed"), step


@pytest.mark.parametrize("look_every", [10, 1000])
def test_too_many_bad_ones_stop_it_and_what_was_done_is_kept(
    look_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "LOOK_EVERY", look_every)
    out, second = tmp_path / "out", MakeSample()
    seen = min(look_every, 40)
    with pytest.raises(UserError, match=rf"9: it wilted; {seen // 10} of 40 photographs are bad"):
        make(out, MakeSample(), 40, max_bad=0.01)
    assert len(make(out, second, 40)) == 4
    assert second.made == list(range(seen, 40))


def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        make(out, StopsAt(3))
    before = sorted(path.name for path in out.iterdir())
    with write._locked(out), pytest.raises(UserError, match="in use by another process"):
        make(out, MakeSample())
    assert sorted(path.name for path in out.iterdir()) == before
    make(out, MakeSample())


def test_the_slower_of_two_processes_changes_nothing_of_the_other(
    tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find nothing there; one is done before the other has its lock."""
    out, real = tmp_path / "out", write._locked

    def late(folder: Path) -> Any:
        monkeypatch.setattr(write, "_locked", real)
        make(out, MakeSample(), 20)
        return real(folder)

    monkeypatch.setattr(write, "_locked", late)
    with pytest.raises(UserError, match="made from another source"):
        make(out, MakeSample(), 8)
    assert len(open_shards(str(out))) == 18


def test_force_does_not_move_a_folder_that_is_in_use(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        make(out, StopsAt(3))
    (out / "source.json").write_text("{}")
    with write._locked(out), pytest.raises(UserError, match="in use by another process"):
        make(out, MakeSample(), force=True)
    assert not (tmp_path / "out.old-1").exists()


def test_a_failure_leaves_no_shard_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        make(tmp_path / "out", StopsAt(7, OSError(28, "No space left on device")))
    assert not list((tmp_path / "out").glob("train-*.tar"))


def test_a_shard_of_nothing_but_bad_items_is_an_empty_one(tmp_path: Path) -> None:
    class Wilted(MakeSample):
        def __call__(self, number: int) -> Sample | str:
            return "it wilted" if number % 2 else super().__call__(number)

    assert len(make(tmp_path / "out", Wilted())) == 4
    with tarfile.open(tmp_path / "out" / "train-000001.tar") as tar:
        assert tar.getnames() == []
    assert [shard.count for shard in open_shards(str(tmp_path / "out")).shards] == [4, 0]


def test_licenses_and_holders_are_counted(tmp_path: Path) -> None:
    class Licensed(MakeSample):
        def __call__(self, number: int) -> Sample | str:
            given = {"license": "CC0" if number < 5 else "CC-BY", "rights_holder": f"holder {number % 2}"}
            made = super().__call__(number)
            return made if isinstance(made, str) else Sample(key=made.key, jpg=made.jpg, metadata=given)

    make(tmp_path / "out", Licensed(), 12)
    assert json.loads((tmp_path / "out" / "licenses.json").read_text()) == {
        "format": 1,
        "licenses": {"CC-BY": 6, "CC0": 5},
        "rights_holders": {"holder 0": 6, "holder 1": 5},
    }


def test_without_licenses_there_is_no_tally(tmp_path: Path) -> None:
    make(tmp_path / "out", MakeSample())
    assert not (tmp_path / "out" / "licenses.json").exists()
