"""What `umbel jobs` finds below a folder, by real locks and hand-made records."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umbel.job_list import Listed, find_jobs


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder of 40 steps that has come to a step."""

    def make(name: str, step: int, *, bad: tuple[int, ...] = (), epochs: float = 4.0) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"format: 1\ncommand: pretrain\ntrain: {{epochs: {epochs}}}\n")
        (folder / ".lock").touch()
        told = {"format": 1, "lasting": {"global_batch": 6}, "starts": []}
        (folder / "run.json").write_text(json.dumps(told))
        rows = [{"step": n, "epoch": n / 10, "loss": -n / 10, "images_per_second": 3.0} for n in range(5, step + 1, 5)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "bad_steps.jsonl").write_text("".join(json.dumps({"step": n, "rank": 0}) + "\n" for n in bad))
        return folder

    return make


def one(folder: Path) -> Listed:
    (found,) = find_jobs([folder])
    return found


def test_a_run_by_its_files_alone(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run("run", 30)
    found = one(tmp_path)
    assert (found.name, found.state, found.step, found.steps, found.loss) == (str(folder), "interrupted", 30, 40, -3.0)
    assert found.left == pytest.approx(10 * 6 / 3.0)
    with (folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert one(tmp_path).state == "running"
    assert one(tmp_path).state == "interrupted"


def test_a_run_that_has_ended(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("run", 40)
    assert one(tmp_path).state == "ended"


def test_a_run_that_gave_up(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", 30, bad=(31, 32, 33))
    make_run("b", 30, bad=(7, 8, 9))
    make_run("c", 30, bad=(31, 33))
    make_run("d", 30, bad=(29, 31, 33))
    found = {Path(job.name).name: job for job in find_jobs([tmp_path])}
    assert {name: job.state for name, job in found.items()} == {"a": "failed"} | dict.fromkeys("bcd", "interrupted")
    assert found["a"].why == "three steps in a row were not finite"


def test_a_run_that_has_not_come_to_its_first_line(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run("run", 0)
    (folder / "run.json").unlink()
    found = one(tmp_path)
    assert (found.state, found.step, found.steps, found.left, found.loss) == ("interrupted", 0, None, None, None)


def write_tasks(folder: Path, *rows: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "pipeline.json").write_text(json.dumps({"format": 1, "command": "pipeline", "tasks": rows}))


def test_the_steps_of_a_pipeline(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("out/run", 20)
    steps = [
        {"name": "pretrain", "state": "failed", "why": "no room.", "folder": str(run)},
        {"name": "embed", "state": "canceled", "why": "pretrain failed", "folder": str(tmp_path / "out/steps/embed")},
        {"name": "export", "state": "running", "why": None, "folder": str(tmp_path / "out/steps/export")},
    ]
    write_tasks(tmp_path / "out", *steps)
    found = find_jobs([tmp_path])
    assert [(job.name, job.state, job.why, job.step) for job in found] == [
        (str(run), "failed", "no room.", 20),
        (f"{tmp_path / 'out'}: embed", "canceled", "pretrain failed", None),
        (f"{tmp_path / 'out'}: export", "interrupted", None, None),  # nothing holds the folder
    ]
    with (tmp_path / "out" / ".tasks-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert find_jobs([tmp_path])[2].state == "running"


def test_a_run_that_outlived_its_pipeline_has_ended(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("out/run", 40)
    write_tasks(tmp_path / "out", {"name": "pretrain", "state": "running", "why": None, "folder": str(run)})
    assert one(tmp_path).state == "ended"


def test_every_run_is_listed_once(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a/b/run", 5)
    make_run("a/run", 5)
    found = find_jobs([tmp_path, tmp_path / "a"])
    assert len(found) == 2


def test_the_command_prints_a_table_and_json(
    make_run: Callable[..., Path], tmp_path: Path, umbel: Callable[..., Any]
) -> None:
    make_run("run", 30)
    code, out, _ = umbel("jobs", tmp_path)
    assert code == 0
    assert out.splitlines()[0].split() == ["run", "state", "step", "left", "loss", "job", "why"]
    assert out.splitlines()[1].split() == [str(tmp_path / "run"), "interrupted", "30/40", "-", "-3.0000", "-"]
    told = json.loads(umbel("jobs", tmp_path, "--json").out)
    assert told["format"] == 1
    assert told["jobs"][0]["state"] == "interrupted"


def test_where_nothing_is(tmp_path: Path, umbel: Callable[..., Any], refused: Callable[..., str]) -> None:
    assert umbel("jobs", tmp_path).out == f"no runs below {tmp_path}.\n"
    assert "there is no such folder" in refused("jobs", tmp_path / "nowhere")
