"""Notes of the ranks: read as they were written, of this start alone, and never waited for without end."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from umbel.rank_notes import ENDED_LENGTH, LENGTH, Note, NoteBoard, first_note


def board(folder: Path, rank: int, *, start: str = "now", world_size: int = 2, **facts: object) -> NoteBoard:
    made = NoteBoard(folder, start, rank=rank, world_size=world_size)
    made.open(dataclasses.replace(first_note(rank), **facts))  # type: ignore[arg-type]
    return made


def test_a_note_comes_as_it_was_written(tmp_path: Path) -> None:
    one, two = board(tmp_path, 0), board(tmp_path, 1)
    told = dataclasses.replace(first_note(1), beats=7, changes=5, moves=3, where="step 2: data", limit=1.5, hung=True)
    assert two.exchange(told, 10)
    assert one.exchange(first_note(0), 10)
    assert one.notes == {1: told}
    assert two.notes == {0: first_note(0)}


@pytest.mark.parametrize("text", ["é" * 5000, "🌿" * 5000, '"\\' * 5000, "line\nline", "bad \udcff byte"])
def test_a_note_has_its_length_whatever_it_says(tmp_path: Path, text: str) -> None:
    one, two = board(tmp_path, 0), board(tmp_path, 1)
    file = tmp_path / "ranks" / "now" / "rank-00001.json"
    for ended in (text, None):
        assert two.exchange(dataclasses.replace(first_note(1), where=text, ended=ended), 10)
        assert file.stat().st_size == LENGTH
        assert one.exchange(first_note(0), 10)
        expected = text.replace("\udcff", "?")[:ENDED_LENGTH] if ended else None
        assert one.notes[1].ended == expected


def test_notes_of_another_start_are_not_read_and_are_cleared_away_by_rank_0(tmp_path: Path) -> None:
    board(tmp_path, 0, start="before", ended="rank 0 failed first")
    stray = board(tmp_path, 1, start="before", ended="rank 1 failed first")
    two = board(tmp_path, 1)  # whichever comes first
    one = board(tmp_path, 0)
    assert one.exchange(first_note(0), 10)
    assert two.exchange(first_note(1), 10)
    assert one.notes[1].ended is None
    assert two.notes[0].ended is None
    assert [path.name for path in (tmp_path / "ranks").iterdir()] == ["now"]
    # A rank of the earlier start that still lives writes nowhere.
    assert not stray.exchange(first_note(1), 10)
    assert [path.name for path in (tmp_path / "ranks").iterdir()] == ["now"]


def test_who_has_taken_the_note_away_has_left_and_the_last_one_removes_the_folder(tmp_path: Path) -> None:
    one, two = board(tmp_path, 0), board(tmp_path, 1)
    assert one.exchange(first_note(0), 10)
    assert one.left == set()
    two.close()
    assert one.exchange(first_note(0), 10)
    assert one.left == {1}
    one.close()
    assert not (tmp_path / "ranks").exists()


def test_who_has_not_come_yet_has_not_left(tmp_path: Path) -> None:
    one = board(tmp_path, 0)
    assert one.exchange(first_note(0), 10)
    assert (one.left, one.notes) == (set(), {})


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", json.dumps({"rank": 1}).encode(), b"\xff\xfe"])
def test_a_note_that_is_not_whole_is_no_news(tmp_path: Path, content: bytes) -> None:
    one, two = board(tmp_path, 0), board(tmp_path, 1)
    assert two.exchange(dataclasses.replace(first_note(1), moves=4), 10)
    assert one.exchange(first_note(0), 10)
    (tmp_path / "ranks" / "now" / "rank-00001.json").write_bytes(content)
    assert one.exchange(first_note(0), 10)
    assert one.notes[1].moves == 4


def test_a_disk_that_does_not_answer_holds_nobody(tmp_path: Path) -> None:
    """A pipe that nobody writes to stands in for it: opening it for reading waits without end."""
    one = board(tmp_path, 0)
    pipe = tmp_path / "ranks" / "now" / "rank-00001.json"
    os.mkfifo(pipe)
    assert not one.exchange(first_note(0), 0.1)
    threads = threading.active_count()
    assert not one.exchange(dataclasses.replace(first_note(0), moves=1), 0.1)
    assert threading.active_count() == threads  # the one that waits is not joined by more of them
    away = pipe.rename(tmp_path / "pipe")
    two = board(tmp_path, 1)
    away.write_text("answers now")
    assert one.exchange(dataclasses.replace(first_note(0), moves=3), 10)
    assert two.exchange(first_note(1), 10)
    assert two.notes[0].moves == 3


def test_a_note_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    one, two = board(tmp_path, 0), board(tmp_path, 1)
    assert two.exchange(dataclasses.replace(first_note(1), moves=4), 10)
    (tmp_path / "ranks" / "now" / "rank-00000.json").unlink()
    assert not one.exchange(first_note(0), 10)
    assert one.notes == {}


def test_one_alone_keeps_no_notes(tmp_path: Path) -> None:
    alone = board(tmp_path, 0, world_size=1)
    assert alone.exchange(first_note(0), 10)
    alone.close()
    assert list(tmp_path.iterdir()) == []


WRITE_NOTE = "import dataclasses, json, sys; from umbel.rank_notes import first_note;"
WRITE_NOTE += "print(json.dumps(dataclasses.asdict(first_note(1))), flush=True); sys.stdin.read()"


def test_a_process_is_known_to_be_dead_before_its_parent_looks_and_after() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_NOTE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    note = Note(**json.loads(process.stdout.readline()))
    assert note.process == process.pid
    assert not note.is_gone()
    os.kill(process.pid, signal.SIGSTOP)
    assert not note.is_gone()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert note.is_gone()  # a zombie
    process.communicate()
    assert note.is_gone()


def test_a_process_number_of_another_system_or_another_process_proves_nothing() -> None:
    here = first_note(0)
    assert not here.is_gone()
    assert dataclasses.replace(here, born=here.born + 1).is_gone()  # the number is another's now
    elsewhere = dataclasses.replace(here, system="elsewhere", process=2**22 + 1)
    assert not elsewhere.is_gone()
    assert not dataclasses.replace(elsewhere, system="").is_gone()
