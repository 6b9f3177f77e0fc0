"""A sweep as an array of jobs of a real cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "results.json").read_text())["rows"]
    return found


def test_a_sweep_of_eight_of_which_two_fail(cluster: Any) -> None:
    out = cluster.folder / "sweep"
    values = ("--over", "train.batch=8,16,32,100", "--over", "train.epochs=1", "--seeds", "0,1")
    place = ("--data", cluster.plants, "--out", out, "--device", "cpu", "--launch", "slurm", "--launch.hours", "0.5")
    command = ("sweep", cluster.recipe, *values, *place, "--at-once", "3")
    done = cluster.umbel(*command, "--wait")
    assert done.returncode == 3
    names = [f"batch={batch},epochs=1,seed={seed}" for batch in (8, 16, 32, 100) for seed in (0, 1)]
    assert f"2 of 8 runs failed ({names[6]}, {names[7]})" in done.stderr
    found = rows(out)
    assert [row["name"] for row in found] == names
    assert [row["state"] for row in found] == ["done"] * 6 + ["failed"] * 2
    assert [row["step"] for row in found[:6]] == [8, 8, 4, 4, 2, 2]  # 64 photographs
    assert all(row["loss"] < 0 and row["seconds"] > 0 for row in found[:6])
    assert "do not fill one batch of 100" in found[7]["why"]
    groups = json.loads((out / "results.json").read_text())["groups"]
    assert [group["runs"] for group in groups] == [2, 2, 2, 0]
    # One array, of which three ran at once.
    sent = [json.loads(file.read_text()) for file in (out / "launch").glob("job-*.json")]
    assert len({one["id"].partition("_")[0] for one in sent}) == 1
    (script,) = (out / "launch").glob("*_submission.sh")
    assert "--array=0-7%3" in script.read_text()
    # Again: what failed alone is sent, and told as waiting or running.
    again = cluster.umbel(*command)
    assert again.returncode == 0, again.stderr
    assert "2 runs as job" in again.stdout
    assert len(list((out / "launch").glob("job-*.json"))) == 10
    listed = json.loads(cluster.umbel("jobs", out, "--json").stdout)["jobs"]
    assert [one["state"] for one in listed[:6]] == ["ended"] * 6
    assert {one["state"] for one in listed[6:]} <= {"pending", "running", "failed"}
    cluster.sent += [one["job"].partition("_")[0] for one in listed[6:]]
