"""What a run's record says of where a start took place."""

import json
from pathlib import Path

import pytest

from umbel import run_folder
from umbel.run_folder import RunFolder
from umbel.source_code import SourceCode
from umbel.surroundings import RESTART, surroundings

CODE = SourceCode([], "0123abc", "+ a line\n")


@pytest.fixture(autouse=True)
def outside_of_any_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", RESTART):
        monkeypatch.delenv(name, raising=False)


def test_code_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    told = surroundings(CODE)
    assert (told["commit"], told["diff"]) == ("0123abc", CODE.diff_hash)
    assert told["environment"]["NCCL_DEBUG"] == "INFO"
    assert told["environment"]["OMP_NUM_THREADS"] == "3"
    assert "PATH" not in told["environment"]
    assert "job" not in told


def test_a_job_and_why_it_was_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_RESTART_COUNT": "2", RESTART: "preempted"}
    for name, value in facts.items():
        monkeypatch.setenv(name, value)
    assert surroundings(CODE)["job"] == {"id": "12", "nodes": "n[1-2]", "restart": 2, "reason": "preempted"}
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert surroundings(CODE)["job"]["id"] == "10_3"


def test_the_diff_lies_beside_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "source_code", lambda: CODE)
    RunFolder(tmp_path).note_start(5)
    start = json.loads((tmp_path / "run.json").read_text())["starts"][0]
    assert (start["from_step"], start["commit"]) == (5, "0123abc")
    assert (tmp_path / f"code-{start['diff']}.diff").read_text() == CODE.diff
