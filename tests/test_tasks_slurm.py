"""What SLURM says of jobs, as states of tasks; what was sent is found again by its records. No cluster is needed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from umbel.launch.job_state import JobState
from umbel.launch.launch_config import LaunchConfig
from umbel.run import UserError
from umbel.task import Task
from umbel.task_launch import with_launch
from umbel.task_record import TaskRecord
from umbel.tasks_slurm import newest_job, one_process, refuse_sent, said_last, settle

ROW = {"job": "7", "needs": ["a", "b"]}
ROWS = {"a": {"state": "done"}, "b": {"state": "failed"}, "c": {"state": "canceled"}}


@pytest.mark.parametrize(
    ("told", "state", "words"),
    [
        (JobState("PENDING", "Resources", None), "pending", "until enough nodes are free (Resources)"),
        (JobState("PENDING", "Dependency", None), "pending", "(Dependency)"),
        (JobState("RUNNING", "", None), "running", None),
        (JobState("COMPLETING", "", None), "running", None),
        (JobState("REQUEUED", "", None), "running", None),
        (JobState("COMPLETED", "", 0), "done", None),
        (JobState("CANCELLED", "", 0), "canceled", "b failed"),
        (JobState("PENDING", "DependencyNeverSatisfied", None), "canceled", "b failed"),
        (JobState("FAILED", "NonZeroExitCode", 2), "failed", "SLURM says FAILED (NonZeroExitCode), exit code 2"),
        (JobState("TIMEOUT", "TimeLimit", 15), "failed", "TIMEOUT"),
        (JobState("UNKNOWN", "", None), "interrupted", "SLURM knows no job 7 any more"),
    ],
)
def test_states_in_our_words(told: JobState, state: str, words: str | None) -> None:
    found = settle(ROW, told, ROWS, ())
    assert found["state"] == state
    assert found["exit_code"] == told.exit_code
    assert found["why"] is None if words is None else words in found["why"]


def test_why_a_job_was_canceled() -> None:
    canceled = JobState("CANCELLED", "", 0)
    assert settle({"job": "7", "needs": ["a", "c"]}, canceled, ROWS, ())["why"] == "c was canceled"
    assert settle({"job": "7", "needs": ["a"]}, canceled, ROWS, ())["why"] == "by scancel or an administrator"
    never = JobState("PENDING", "BadConstraints", None)
    assert "no node is what it asks for" in settle({"job": "7"}, never, ROWS, ())["why"]


def test_a_jobs_own_sentence(tmp_path: Path) -> None:
    (tmp_path / "7_0_log.err").write_text("umbel: first.\nnoise\numbel: no such data.\n")
    (tmp_path / "70_0_log.err").write_text("umbel: another job's.\n")
    assert said_last("7", (tmp_path / "nowhere", tmp_path)) == "no such data."
    assert said_last("8", (tmp_path,)) is None
    assert settle(ROW, JobState("FAILED", "", 2), ROWS, (tmp_path,))["why"] == "no such data."


def test_the_newest_job_of_a_command_is_found_in_its_folder_or_the_common_one(tmp_path: Path) -> None:
    task = Task(name="x", words=("probe", "d"), result=tmp_path, log=tmp_path, folder=tmp_path / "steps" / "x")
    assert newest_job(task, tmp_path) is None
    sent: list[tuple[Path, str, list[str]]] = [
        (task.folder, "10", ["probe", "d"]),
        (tmp_path, "9_0", ["probe", "d"]),
        (tmp_path, "11", ["probe", "other"]),
    ]
    for moment, (folder, job, words) in enumerate(sent):
        (folder / "launch").mkdir(parents=True, exist_ok=True)
        file = folder / "launch" / f"job-{job}.json"
        file.write_text(json.dumps({"format": 1, "id": job, "command": words}))
        os.utime(file, (moment, moment))
    assert newest_job(task, tmp_path) == "9_0"


def test_only_commands_that_share_their_work_get_several_processes(tmp_path: Path) -> None:
    launch = LaunchConfig(where="slurm", nodes=2, gpus=4, partition="main")
    assert one_process(launch) == LaunchConfig(where="slurm", gpus=1, partition="main")
    assert one_process(LaunchConfig(where="slurm", processes=2)) == LaunchConfig(where="slurm")
    local = LaunchConfig(where="local", processes=2)
    places: dict[str, Any] = {"result": tmp_path, "log": tmp_path, "folder": tmp_path}
    embed = with_launch(Task(name="embed", words=("embed", "run"), **places), local)
    assert embed.words == ("embed", "run", "--launch.where", "local", "--launch.processes", "2")
    probe = Task(name="probe", words=("probe", "run"), **places)
    assert with_launch(probe, local) == probe


def test_without_a_cluster_that_is_said(refused: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    out = tmp_path / "out"
    said = refused("pipeline", "pipeline/plants", "--out", out, "--launch", "slurm")
    assert "there is no SLURM here" in said


def test_what_waits_as_a_job_is_not_run_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A squeue of our own stands for the cluster."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    row = f"{'7':<64}{'PENDING':<24}{'Resources':<96}{'0':<16}"
    squeue.write_text(f"#!/bin/sh\necho '{row}'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    task = Task(name="x", words=("doctor",), result=tmp_path, log=tmp_path / "log", folder=tmp_path / "x")
    file = tmp_path / "out" / "pipeline.json"
    with TaskRecord.open(file, [task], {"command": "pipeline"}, ignore=(), data=None, force=False) as record:
        refuse_sent([task], record)
        record.update("x", state="pending", job="7")
        with pytest.raises(UserError, match=r"x still wait or run as SLURM jobs \(7\)"):
            refuse_sent([task], record)
        squeue.write_text(f"#!/bin/sh\necho '{row.replace('PENDING', 'FAILED ')}'\n")
        refuse_sent([task], record)
        assert record.states() == {"x": "failed"}
