"""Atomic writes, folders that appear whole, moving aside, progress in plain lines."""

import json
import os
from pathlib import Path

import pytest

from umbel import run
from umbel.run import Bar, UserError, atomic_folder, duration, move_aside, read_json, say, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "text", "é\n")
    write_atomic(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "text").read_bytes() == "é\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["bytes", "text"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_old_content_survives_a_failure_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    file = tmp_path / "file"
    write_atomic(file, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if failing == "fsync" else Path, failing, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(file, "new and longer")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_reader_never_sees_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, seen = tmp_path / "file", []
    write_atomic(file, "old")
    sync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(file.read_text())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_atomic(file, "new")
    assert seen == ["old", "new"]  # before the rename; and when the folder is made durable


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "made") as beside:
        (beside / "inner").mkdir()
        (beside / "inner" / "file").write_text("x")
        assert not (tmp_path / "a" / "made").exists()
    assert (tmp_path / "a" / "made" / "inner" / "file").read_text() == "x"
    assert names(tmp_path / "a") == ["made"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_failed_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "made") as beside:
            (beside / "file").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_not_mixed_in(tmp_path: Path) -> None:
    left = tmp_path / ".made.tmp"
    left.mkdir()
    (left / "stale").write_text("x")
    with atomic_folder(tmp_path / "made") as beside:
        (beside / "fresh").write_text("y")
    assert names(tmp_path / "made") == ["fresh"]


def test_moving_aside_takes_the_first_free_number(tmp_path: Path) -> None:
    for _ in range(3):
        (tmp_path / "run").mkdir()
        move_aside(tmp_path / "run")
    assert names(tmp_path) == ["run.old-1", "run.old-2", "run.old-3"]


def test_moving_the_working_folder_aside_by_its_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--out . --force`: moved, or refused in a sentence."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").write_text("x")
    monkeypatch.chdir(tmp_path / "work")
    try:
        aside = move_aside(Path())
    except UserError:
        assert (tmp_path / "work" / "file").read_text() == "x"
    else:
        assert (aside / "file").read_text() == "x"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 2}', '{"a": 1}'])
def test_json_of_another_format_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match=r"the index .*index\.json") as caught:
        read_json(tmp_path / "index.json", "the index")
    assert "\n" not in str(caught.value)


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(UserError, match="has format 2; this Umbel reads format 1: upgrade Umbel"):
        read_json(tmp_path / "index.json", "the index")


def test_the_bar_writes_plain_lines_where_no_one_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("making", 4, interval=0) as bar:
        for number in range(4):
            bar.advance(1, "loss 1.0" if number == 1 else None)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split(",")[0].split("  ")[0] for line in lines[:4]] == [f"making: {n}/4" for n in (1, 2, 3, 4)]
    assert "\x1b" not in err
    assert "loss 1.0" in lines[1]
    assert "loss 1.0" in lines[2]
    assert "left" in lines[0]
    assert "left" not in lines[3]


def test_the_bar_is_quiet_between_its_intervals_and_speaks_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("making", 100, done=90, interval=3600) as bar:
        for _ in range(10):
            bar.advance()
    assert capsys.readouterr().err == "making: 100/100\n"


def test_a_bar_that_did_nothing_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("making", 4, done=4):
        pass
    assert capsys.readouterr().err == ""


def test_other_ranks_keep_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    say("hello")
    with Bar("making", 1, interval=0) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (172800, "2.0 days")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_exit_codes_keep_their_meanings() -> None:
    codes = {name: getattr(run, name) for name in dir(run) if name.startswith("EXIT_")}
    assert codes == {
        "EXIT_DONE": 0,
        "EXIT_BUG": 1,
        "EXIT_USER_ERROR": 2,
        "EXIT_TRAINING_FAILED": 3,
        "EXIT_REQUEUE": 75,
        "EXIT_INTERRUPTED": 130,
    }


def test_processors_are_those_that_this_process_may_use() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system has no processor affinity")
    all_of_them = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(all_of_them)})
        assert run.processors() == 1
    finally:
        os.sched_setaffinity(0, all_of_them)
