"""A run's folder: made once, continued by the same configuration only, one process at a time, logs without doubles."""

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from umbel.run import UserError
from umbel.run_folder import LIBRARIES, RunFolder


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Settings inside settings."""

    rate: float = 0.5
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A small configuration."""

    out: str = "run"
    seed: int = 0
    inner: Inner = field(default_factory=Inner)


IGNORE = ("out", "inner.workers")
Content = Callable[[Path], dict[str, bytes | None]]


def open_run(path: Path, settings: Settings, *, force: bool = False, command: str = "test") -> RunFolder:
    return RunFolder.open(path, settings, command, ignore=IGNORE, force=force)


def test_a_new_folder_holds_its_configuration(tmp_path: Path) -> None:
    run = open_run(tmp_path / "a" / "run", Settings(seed=3))
    assert (tmp_path / "a" / "run" / "config.yaml").read_text().startswith("format: 1\ncommand: test\n")
    assert (run.previous("test") or {})["seed"] == 3
    assert RunFolder(tmp_path / "nothing").previous("test") is None


@pytest.mark.parametrize("other", [Settings(), Settings(out="elsewhere", inner=Inner(workers=9))])
def test_the_same_configuration_continues(tmp_path: Path, other: Settings) -> None:
    open_run(tmp_path / "run", Settings())
    before = (tmp_path / "run" / "config.yaml").stat().st_mtime_ns
    open_run(tmp_path / "run", other)
    assert (tmp_path / "run" / "config.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize("lost", ["seed: 0\n", "  workers: 1\n", "inner:\n  rate: 0.5\n  workers: 1\n"])
def test_a_run_of_before_a_setting_was_there_had_its_default(tmp_path: Path, lost: str) -> None:
    open_run(tmp_path / "run", Settings())
    file = tmp_path / "run" / "config.yaml"
    assert lost in file.read_text()
    file.write_text(file.read_text().replace(lost, ""))
    open_run(tmp_path / "run", Settings())
    with pytest.raises(
        UserError, match=r"another configuration \((seed: 0 there, 4|inner\.rate: 0\.5 there, 0\.7) now"
    ):
        open_run(tmp_path / "run", Settings(seed=4) if "rate" not in lost else Settings(inner=Inner(rate=0.7)))


def test_a_run_with_a_setting_that_this_umbel_does_not_have_is_refused(tmp_path: Path) -> None:
    open_run(tmp_path / "run", Settings())
    with (tmp_path / "run" / "config.yaml").open("a") as file:
        file.write("seeds: 3\n")
    with pytest.raises(UserError, match=r"cannot continue \(.*unknown key 'seeds', did you mean 'seed'"):
        open_run(tmp_path / "run", Settings())


def test_another_configuration_is_refused_and_nothing_changes(tmp_path: Path, content: Content) -> None:
    path = tmp_path / "run"
    open_run(path, Settings()).log("metrics", {"step": 1})
    before = content(path)
    with pytest.raises(UserError) as caught:
        open_run(path, Settings(inner=Inner(rate=0.25, workers=2)))
    assert str(caught.value) == (
        f"{path} is a run with another configuration (inner.rate: 0.5 there, 0.25 now): "
        "choose another --out, or --force to move it aside."
    )
    assert content(path) == before


def test_another_commands_folder_is_refused(tmp_path: Path) -> None:
    open_run(tmp_path / "run", Settings())
    with pytest.raises(UserError, match="command: other"):
        open_run(tmp_path / "run", Settings(), command="other")


def test_another_commands_folder_is_moved_aside_by_force(tmp_path: Path) -> None:
    open_run(tmp_path / "run", Settings())
    open_run(tmp_path / "run", Settings(), command="other", force=True)
    assert (tmp_path / "run.old-1" / "config.yaml").is_file()


def test_a_folder_with_other_files_is_refused_and_moved_aside_by_force(tmp_path: Path, content: Content) -> None:
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "chapter.tex").write_text("dear")
    with pytest.raises(UserError, match="holds other files than a run's"):
        open_run(path, Settings())
    assert content(path) == {"chapter.tex": b"dear"}
    open_run(path, Settings(), force=True)
    assert content(tmp_path / "thesis.old-1") == {"chapter.tex": b"dear"}
    assert (path / "config.yaml").is_file()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("dear")
    with pytest.raises(UserError):
        open_run(tmp_path / "run", Settings())
    assert (tmp_path / "run").read_text() == "dear"


@pytest.mark.parametrize("left", [[], [".lock"]])
def test_an_empty_folder_or_a_lock_alone_is_taken(tmp_path: Path, left: list[str]) -> None:
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).touch()
    open_run(tmp_path / "run", Settings())
    assert (tmp_path / "run" / "config.yaml").is_file()


@pytest.mark.parametrize("text", ["", "{", "format: 9\ncommand: test\n"])
def test_a_damaged_configuration_is_answered_in_a_sentence(tmp_path: Path, text: str) -> None:
    open_run(tmp_path / "run", Settings())
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        open_run(tmp_path / "run", Settings())


OPEN_AND_WAIT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from umbel.run_folder import RunFolder
run = RunFolder(Path(sys.argv[1]))
run.path.mkdir(exist_ok=True)
run._lock()
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> "subprocess.Popen[str]":
    """Another process that holds the run folder, as a training run does."""
    open_run(tmp_path / "run", Settings())
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN_AND_WAIT, str(tmp_path / "run"), str(Path(__file__).parents[1])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process  # type: ignore[misc]
    process.communicate("")


def test_a_second_process_is_kept_out_until_the_first_ends(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    with pytest.raises(UserError, match="in use by another process"):
        open_run(tmp_path / "run", Settings())
    holder.kill()
    holder.wait()
    open_run(tmp_path / "run", Settings())


def test_a_glance_at_the_lock_keeps_nobody_out(tmp_path: Path) -> None:
    """As `umbel jobs` takes it, to see whether anybody holds it."""
    open_run(tmp_path / "run", Settings())
    with (tmp_path / "run" / ".lock").open() as glance:
        fcntl.flock(glance, fcntl.LOCK_SH)
        timer = threading.Timer(0.05, fcntl.flock, (glance, fcntl.LOCK_UN))
        timer.start()
        open_run(tmp_path / "run", Settings())
        timer.join()


def test_a_forked_child_does_not_keep_the_folder(tmp_path: Path) -> None:
    """As the data workers of a trainer that was killed, which find out some seconds later."""
    # The child says when it runs: a process that is killed before its child has begun leaves the lock to it.
    fork = "import os, time; ready, told = os.pipe()\nif not os.fork(): os.write(told, b'1'); time.sleep(60)\n"
    code = OPEN_AND_WAIT.replace("print(", fork + "os.read(ready, 1); print(os.getpid(), ")
    arguments = [str(tmp_path / "run"), str(Path(__file__).parents[1])]
    open_run(tmp_path / "run", Settings())
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().endswith(b" locked\n")
        with pytest.raises(UserError, match="in use by another process"):
            open_run(tmp_path / "run", Settings())
        process.kill()
        process.wait()
        open_run(tmp_path / "run", Settings())
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the child
        process.communicate()


def test_force_does_not_move_a_folder_from_under_a_running_process(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(UserError, match="in use by another process"):
        open_run(tmp_path / "run", Settings(seed=1), force=True)
    assert not (tmp_path / "run.old-1").exists()


def test_only_the_first_rank_makes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    run = open_run(tmp_path / "run", Settings())
    run.note_start(0, data="x")
    run.cut_back("metrics", 0)
    assert not (tmp_path / "run").exists()


def test_every_start_is_noted_with_what_it_ran_on(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", Settings())
    run.note_start(0, data="abc")
    run.note_start(40, data="abc")
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (told["format"], told["lasting"]) == (1, {"data": "abc"})
    assert [start["from_step"] for start in told["starts"]] == [0, 40]
    assert set(told["starts"][0]["libraries"]) == set(LIBRARIES)


def test_facts_of_one_start_and_new_lasting_ones_are_added(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", Settings())
    assert run.record() == {"format": 1, "lasting": {}, "starts": []}
    run.note_start(0, data="abc")
    run.note_start(40, data="abc", global_batch=8, now={"ranks": 2})
    run.note_start(60, data="abc", now={"ranks": 1})
    told = run.record()
    assert told["lasting"] == {"data": "abc", "global_batch": 8}
    assert [start.get("ranks") for start in told["starts"]] == [None, 2, 1]


def test_a_difference_that_the_configuration_does_not_show(tmp_path: Path, content: Content) -> None:
    path = tmp_path / "run"
    kinds: dict[str, Any] = {"ignore": IGNORE, "force": False}
    RunFolder.open(path, Settings(), "test", **kinds, also=lambda run: None)
    before = content(path)
    with pytest.raises(UserError) as caught:
        RunFolder.open(path, Settings(), "test", **kinds, also=lambda run: f"has {run.path.name} for a name")
    assert str(caught.value) == f"{path} has run for a name: choose another --out, or --force to move it aside."
    assert content(path) == before
    RunFolder.open(path, Settings(), "test", ignore=IGNORE, force=True, also=lambda run: "is what it is")
    assert (tmp_path / "run.old-1" / "config.yaml").is_file()


def test_a_log_on_a_full_disk_is_a_users_error(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", Settings())
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"metrics\.jsonl could not be written \(No space left on device\): make room"):
        run.log("metrics", {"step": 1})


def test_other_data_is_refused(tmp_path: Path, content: Content) -> None:
    run = open_run(tmp_path / "run", Settings())
    run.note_start(0, data="abc")
    before = content(tmp_path / "run")
    with pytest.raises(UserError, match=r"begun on other data"):
        run.note_start(5, data="xyz")
    assert content(tmp_path / "run") == before


def test_steps_behind_the_checkpoint_are_cut_back(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", Settings())
    for step in (10, 20, 30, 40):
        run.log("metrics", {"step": step, "loss": step / 3})
    run.cut_back("metrics", 20)
    assert run.read_log("metrics") == [{"step": 10, "loss": 10 / 3}, {"step": 20, "loss": 20 / 3}]
    run.log("metrics", {"step": 30, "loss": 1.0})
    assert [row["step"] for row in run.read_log("metrics")] == [10, 20, 30]


def test_a_line_that_a_crash_tore_is_dropped(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", Settings())
    run.log("metrics", {"step": 10})
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    assert run.read_log("metrics") == [{"step": 10}]
    run.cut_back("metrics", 30)
    run.log("metrics", {"step": 20})
    assert run.read_log("metrics") == [{"step": 10}, {"step": 20}]


def test_lines_written_after_a_torn_one_are_not_lost(tmp_path: Path) -> None:
    """bad_photographs.jsonl is never cut back: a torn line must not swallow all that follow."""
    run = open_run(tmp_path / "run", Settings())
    run.log("bad_photographs", {"key": "a"})
    with (tmp_path / "run" / "bad_photographs.jsonl").open("a") as file:
        file.write('{"key": "b')
    for key in ("c", "d"):
        run.log("bad_photographs", {"key": key})
    keys = [row["key"] for row in run.read_log("bad_photographs")]
    assert "a" in keys
    assert "d" in keys


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", Settings())
    run.log("metrics", {"step": 1, "loss": float("inf")})
    assert run.read_log("metrics")[0]["loss"] == float("inf")


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", Settings())
    assert run.read_log("metrics") == []
    run.cut_back("metrics", 3)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_settings_of_launching_are_written_but_not_compared(tmp_path: Path) -> None:
    settings = Settings(inner=Inner(workers=5))
    run = open_run(tmp_path / "run", settings)
    assert (run.previous("test") or {})["inner"] == dataclasses.asdict(settings.inner)


def test_a_start_that_failed_before_it_did_anything_binds_nobody(tmp_path: Path) -> None:
    open_run(tmp_path / "run", Settings()).give_up()
    begun = open_run(tmp_path / "run", Settings(seed=4))
    begun.note_start(0, data="a")
    begun.give_up()
    with pytest.raises(UserError, match="seed: 4 there, 0 now"):
        open_run(tmp_path / "run", Settings())
