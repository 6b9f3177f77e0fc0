"""Tasks on this machine: order, failures, signals, kills, and what their record tells. Real commands, small ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umbel.run import Stopped, UserError
from umbel.task import Task, TaskFailed, dependents
from umbel.task_record import TaskRecord, read_tasks
from umbel.tasks_here import ending, run_here

SIMULATE = ("votes", "simulate", "--observations", "20", "--users", "5", "--species", "8")
RUNNER = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_tasks_here import chain, run
from umbel.run import Stopped
tasks = chain(Path({folder!r}), a={first!r})[:2]
try:
    run(tasks)
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


def chain(folder: Path, **words: tuple[str, ...]) -> list[Task]:
    """a; b needs it, c needs b, d needs nothing."""
    made = []
    for name, needs in {"a": (), "b": ("a",), "c": ("b",), "d": ()}.items():
        out = folder / name
        usual = (*SIMULATE, "--out", str(out))
        log = folder / "logs" / f"{name}.txt"
        made.append(
            Task(
                name=name,
                words=words.get(name, usual),
                result=out,
                log=log,
                folder=folder / "steps" / name,
                needs=needs,
            )
        )
    return made


def open_record(tasks: list[Task], *, force: bool = False, **asked: Any) -> TaskRecord:
    file = tasks[0].log.parent.parent / "pipeline.json"
    return TaskRecord.open(file, tasks, {"command": "pipeline"} | asked, ignore=(), data=None, force=force)


def run(tasks: list[Task], *, go_on: bool = False, before: Callable[[Task], None] = lambda _: None) -> None:
    with open_record(tasks) as record:
        run_here(tasks, record, go_on=go_on, before=before)


def states(folder: Path) -> dict[str, str]:
    return {row["name"]: row["state"] for row in read_tasks(folder / "pipeline.json")}


def test_all_run_once_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    tasks = chain(folder)
    run(tasks)
    rows = read_tasks(folder / "pipeline.json")
    assert [row["state"] for row in rows] == ["done"] * 4
    assert [row["exit_code"] for row in rows] == [0] * 4
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[0]["began"] <= rows[1]["began"] <= rows[2]["began"]
    assert "votes of" in (folder / "logs" / "a.txt").read_text()
    assert capsys.readouterr().out.count("votes of") == 4  # what they say is repeated
    made = (folder / "b").stat().st_mtime_ns
    run(tasks)
    assert capsys.readouterr().out.count("done before") == 4
    assert (folder / "b").stat().st_mtime_ns == made


def test_a_result_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    tasks = chain(folder)[:1]
    run(tasks)
    (folder / "a").rename(folder / "elsewhere")
    run(tasks)
    assert (folder / "a").exists()


@pytest.mark.parametrize("go_on", [False, True])
def test_a_failure_cancels_what_needs_it(go_on: bool, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    tasks = chain(folder, b=("votes", "aggregate", str(tmp_path / "nothing"), "--out", str(folder / "b")))
    if go_on:
        run(tasks, go_on=True)
    else:
        with pytest.raises(TaskFailed, match=r"b failed: .*nothing") as failed:
            run(tasks)
        assert failed.value.exit_code == 2
    found = {row["name"]: row for row in read_tasks(folder / "pipeline.json")}
    last = "done" if go_on else "pending"
    assert states(folder) == {"a": "done", "b": "failed", "c": "canceled", "d": last}
    assert found["c"]["why"] == "b failed"
    assert "nothing" in found["b"]["why"]
    # Mended, the same tasks go on: what was done stays done.
    made = (folder / "a").stat().st_mtime_ns
    tasks = chain(folder)
    run(tasks)
    assert set(states(folder).values()) == {"done"}
    assert (folder / "a").stat().st_mtime_ns == made


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Two tasks in a process of its own; the first one takes seconds."""
    code = RUNNER.format(here=str(Path(__file__).parent), folder=str(folder), first=long_command(folder))
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (folder / "pipeline.json").exists() or states(folder)["a"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def long_command(folder: Path) -> tuple[str, ...]:
    """Some seconds of work, which the same command continues."""
    return (
        "shards",
        "make",
        "synthetic",
        "--train",
        "60",
        "--size",
        "128",
        "--workers",
        "1",
        "--out",
        str(folder / "a"),
    )


def test_a_signal_is_handed_on_and_the_same_command_continues(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = start(folder)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert states(folder) == {"a": "interrupted", "b": "pending"}
    run(chain(folder)[:2])
    assert set(states(folder).values()) == {"done"}


def test_what_outlives_a_killed_command_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    process = start(folder)
    with pytest.raises(UserError, match="in use by another process"):
        open_record(chain(folder))
    time.sleep(0.3)  # the task's own process is there by now
    process.kill()
    process.wait()
    assert states(folder)["a"] == "running"
    run(chain(folder, a=long_command(folder))[:1])
    assert states(folder) == {"a": "done"}
    assert "still runs" in capsys.readouterr().out


def test_another_recipe_does_not_take_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    tasks = chain(folder)
    with open_record(tasks, seed=1):
        pass
    with pytest.raises(UserError, match=r"holds another pipeline \(seed: 1 there, 2 now\)"):
        open_record(tasks, seed=2)
    (folder / "mark").touch()
    with open_record(tasks, seed=2, force=True):
        pass
    assert not (folder / "mark").exists()
    assert (tmp_path / "out.old-1" / "mark").exists()


def test_what_is_done_must_have_been_done_by_the_same_command(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    tasks = chain(folder)[:2]
    with open_record(tasks) as record:
        record.update("a", state="done")
    other = ("votes", "simulate", "--users", "6")
    with open_record(chain(folder, b=other)[:2]) as record:  # b may still be mended
        assert record.rows["b"]["words"] == list(other)
        assert record.states() == {"a": "done", "b": "pending"}
    with pytest.raises(UserError, match=r"a was done by another command: .*--users 5.* there, --users 6 now"):
        open_record(chain(folder, a=other)[:2])


def test_strangers_in_a_folder_stay(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other files"):
        open_record(chain(folder))


def test_how_a_task_ended(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("hello\numbel: an older sentence.\numbel: no such data.\nmore\n")
    assert ending(0, log) == ("done", None)
    assert ending(2, log) == ("failed", "no such data.")
    assert ending(130, log)[0] == ending(75, log)[0] == ending(-signal.SIGTERM, log)[0] == "interrupted"
    assert ending(-signal.SIGKILL, log) == ("failed", "it was killed by SIGKILL (out of memory?).")
    log.write_text("Traceback\n")
    assert ending(1, log) == ("failed", "it ended with exit code 1.")


def test_dependents_are_found_through_others(tmp_path: Path) -> None:
    assert dependents(chain(tmp_path), "a") == ["b", "c"]
    assert dependents(chain(tmp_path), "d") == []


def test_a_record_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.json"
    file.write_text(json.dumps({"format": 2, "tasks": []}))
    with pytest.raises(UserError, match="format 2"):
        read_tasks(file)
    assert os.listdir(tmp_path) == ["pipeline.json"]


def test_a_signal_between_tasks_stops_before_the_next(tmp_path: Path) -> None:
    tasks = chain(tmp_path / "out")

    def before(task: Task) -> None:
        if task.name == "a":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        run(tasks, before=before)
    assert states(tmp_path / "out")["a"] == "interrupted"
    assert states(tmp_path / "out")["b"] == "pending"
