"""A run that is disturbed goes on where it was, and ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm
Rows = list[dict[str, Any]]


def scontrol(*words: str) -> None:
    subprocess.run(["scontrol", *words], check=True, capture_output=True, timeout=60)


def test_preempted_saved_requeued_continued(cluster: Any, undisturbed: Rows, tmp_path: Path) -> None:
    """A job of the partition `high` takes both nodes; the restart runs the same copy of the code."""
    run = tmp_path / "run"
    job = cluster.pretrain(run)
    halted = cluster.at_checkpoint(run)
    other = cluster.submit(
        ["--version"], tmp_path / "other", nodes=2, partition="high", sbatch=("exclusive",), setup=("sleep 2",)
    )
    cluster.wait_until(lambda: cluster.shown(job)["PreemptTime"] != "None")
    cluster.go_on(halted)
    cluster.good(other, tmp_path / "other")
    cluster.good(job, run)
    assert cluster.rows(run) == undisturbed
    first, second = cluster.starts(run)
    assert (first["job"]["restart"], second["job"]["restart"]) == (0, 1)
    assert second["job"]["reason"] == "preempted"
    assert second["from_step"] >= 4
    assert second["command"] == first["command"]  # from the same copy of the code


def test_scontrol_requeue(cluster: Any, undisturbed: Rows, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = cluster.pretrain(run)
    halted = cluster.at_checkpoint(run)
    scontrol("requeue", job)
    cluster.go_on(halted)
    cluster.good(job, run)
    assert cluster.rows(run) == undisturbed
    assert cluster.starts(run)[1]["job"]["reason"] == "scontrol requeue"
    assert cluster.restart_count(job) == 1


def test_a_rank_is_killed(cluster: Any, tmp_path: Path) -> None:
    """One of two ranks; the other one says so and ends, and the job starts again from the checkpoint."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    undisturbed = cluster.pretrain(whole, "--train.batch", 4, nodes=2)
    job = cluster.pretrain(run, "--train.batch", 4, processes=2)
    halted = cluster.at_checkpoint(run)
    os.kill(halted[1], signal.SIGKILL)
    cluster.go_on(halted)
    cluster.good(job, run)
    cluster.good(undisturbed, whole)
    assert cluster.rows(run) == cluster.rows(whole)
    assert cluster.starts(run)[1]["job"]["reason"] == "a process was ended by signal 9"
    assert "is gone" in cluster.log(run, job)


def test_a_canceled_run_saves_and_stays_canceled(cluster: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = cluster.pretrain(run)
    halted = cluster.at_checkpoint(run)
    subprocess.run(["scancel", job], check=True)
    cluster.go_on(halted)
    cluster.wait_until(lambda: not cluster.processes(run))
    cluster.wait_until(lambda: "COMPLETING" not in cluster.shown(job)["JobState"])
    assert "umbel: ended by SLURM: canceled." in cluster.log(run, job)
    assert cluster.state(job).state == "CANCELLED"
    assert cluster.restart_count(job) == 0
    saved = max(int(path.name[5:]) for path in run.glob("checkpoints/step-????????"))
    assert f"SIGTERM: saved at step {saved} of" in cluster.log(run, job)


def test_restarts_without_progress_come_to_an_end(cluster: Any, tmp_path: Path) -> None:
    """A command that is killed each time before it has made anything."""
    tool = tmp_path / "bin"
    tool.mkdir()
    (tool / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'submitit.core._submit' in ' '.join(sys.orig_argv):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    job = cluster.submit(["--version"], tmp_path / "run", setup=(f"export PYTHONPATH={tool}",), requeues=1)
    found = cluster.wait(job)
    assert (found.state, found.exit_code) == ("FAILED", 3)
    assert cluster.restart_count(job) == 2
    log = cluster.log(tmp_path / "run", job)
    assert "2 starts in a row ended without anything new (a process was ended by signal 9)" in log


@pytest.mark.slow
def test_time_limit(cluster: Any, undisturbed: Rows, tmp_path: Path) -> None:
    """Four minutes, of which SLURM leaves the run two or three."""
    run = tmp_path / "run"
    job = cluster.pretrain(run, hours=4 / 60, signal_delay=60)
    cluster.at_checkpoint(run)  # SLURM's signal comes with one that lets halted processes go on
    cluster.good(job, run, 500)
    assert cluster.rows(run) == undisturbed
    assert cluster.starts(run)[1]["job"]["reason"] == "the time limit of 00:04:00"


@pytest.mark.slow
def test_time_limit_without_a_signal_before(cluster: Any, undisturbed: Rows, tmp_path: Path) -> None:
    """The SIGTERM of the limit itself leaves half a minute (KillWait)."""
    run = tmp_path / "run"
    job = cluster.pretrain(run, hours=2 / 60, signal_delay=60, sbatch=("signal=23@1",))  # one that does nothing
    halted = cluster.at_checkpoint(run)
    while cluster.shown(job)["JobState"] == "RUNNING":
        for pid in halted:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(0.2)
    cluster.go_on(halted)
    cluster.good(job, run, 500)
    assert cluster.rows(run) == undisturbed
    assert cluster.starts(run)[1]["job"]["reason"] == "the time limit of 00:02:00"


@pytest.mark.slow
@pytest.mark.parametrize("brings_back", [True, False], ids=["comes back", "stays away"])
def test_slurmd_is_killed(cluster: Any, undisturbed: Rows, tmp_path: Path, brings_back: bool) -> None:
    """The run goes on without it; if it stays away SLURM gives the node up and starts the job on the other one."""
    run = tmp_path / "run"
    job = cluster.pretrain(run, sbatch=() if brings_back else ("nodelist=umbel1",))
    halted = cluster.at_checkpoint(run)
    node = cluster.shown(job)["NodeList"]
    cluster.kill(f"slurmd-{node}")
    if brings_back:
        cluster.start()
        cluster.go_on(halted)
    else:
        cluster.wait_until(lambda: cluster.restart_count(job) == 1)
        for pid in halted:
            os.kill(pid, signal.SIGKILL)  # the node is off
        cluster.start()
    cluster.good(job, run)
    assert cluster.rows(run) == undisturbed
    assert len(cluster.starts(run)) == (1 if brings_back else 2)


@pytest.mark.slow
def test_slurmctld_is_killed(cluster: Any, undisturbed: Rows, tmp_path: Path) -> None:
    """While a run trains, and is asked to go back into the queue by its time limit's signal."""
    run = tmp_path / "run"
    job = cluster.pretrain(run)
    halted = cluster.at_checkpoint(run)
    cluster.kill("slurmctld")
    cluster.go_on(halted)
    time.sleep(2)
    cluster.start()
    cluster.good(job, run)
    assert cluster.rows(run) == undisturbed
    told = json.loads((run / "launch" / f"job-{job}.json").read_text())
    assert told["command"] == cluster.words(run)
