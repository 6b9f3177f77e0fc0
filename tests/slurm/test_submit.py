"""Submitting, and what is said when it does not work: with commands that take no time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from umbel.launch.dispatch import dispatch
from umbel.launch.job_state import states
from umbel.launch.launch_config import LaunchConfig
from umbel.launch.slurm import submit_array
from umbel.run import UserError

pytestmark = pytest.mark.slurm
VERSION = ["--version"]
# Python runs this before the job's own words.
EATS_MEMORY = """
import sys, time
if "submitit.core._submit" in " ".join(sys.orig_argv):
    eaten = bytearray(b"x") * 600_000_000
    time.sleep(60)
"""


def launch(**settings: Any) -> LaunchConfig:
    return LaunchConfig(where="slurm", hours=0.2, **settings)


def test_a_job_and_its_record(cluster: Any, tmp_path: Path) -> None:
    job = cluster.submit(VERSION, tmp_path, gpus=2, memory=0.5, name="record", setup=('echo "$CUDA_VISIBLE_DEVICES"',))
    cluster.good(job, tmp_path)
    assert cluster.log(tmp_path, job, "out").count("umbel 0.") == 2  # a task for each GPU
    assert cluster.log(tmp_path, job, "out").startswith("0,1\n")
    told = json.loads((tmp_path / "launch" / f"job-{job}.json").read_text())
    assert (told["format"], told["id"], told["name"], told["command"]) == (1, job, "record", VERSION)
    assert (told["resources"]["gpus"], told["resources"]["memory"]) == (2, 0.5)
    assert (tmp_path / "launch" / f"code-{told['snapshot']}" / "umbel" / "cli.py").is_file()
    assert cluster.shown(job)["MinMemoryNode"] == "512M"


def test_an_array_with_two_tasks_at_once(cluster: Any, tmp_path: Path) -> None:
    commands = [VERSION, ["no-such-command"], VERSION]
    tasks = submit_array(commands, launch(), folder=tmp_path, name="array", at_once=2)
    number = tasks[0].split("_")[0]
    assert tasks == [f"{number}_{task}" for task in range(3)]
    found = [cluster.wait(task) for task in tasks]
    assert [(state.state, state.exit_code) for state in found] == [("COMPLETED", 0), ("FAILED", 2), ("COMPLETED", 0)]
    told = [json.loads((tmp_path / "launch" / f"job-{task}.json").read_text())["command"] for task in tasks]
    assert told == commands


def test_what_follows_a_job_that_fails_is_canceled(cluster: Any, tmp_path: Path) -> None:
    first = cluster.submit(["no-such-command"], tmp_path)
    second, third = (cluster.submit_after(VERSION, tmp_path, [before]) for before in (first, first))
    assert cluster.wait(first).exit_code == 2
    assert [cluster.wait(job).state for job in (second, third)] == ["CANCELLED"] * 2


def test_states_of_jobs_that_are_known_and_that_are_not(cluster: Any, tmp_path: Path) -> None:
    held = cluster.submit(VERSION, tmp_path, sbatch=("hold",))
    found = states([held, "999999"])
    assert (found[held].state, found[held].reason, found[held].exit_code) == ("PENDING", "JobHeldUser", None)
    assert found["999999"].state == "UNKNOWN"
    assert states(["999999"])["999999"].state == "UNKNOWN"
    subprocess.run(["scancel", held], check=True)


def test_slurm_is_asked_in_vain(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = (cluster.root / "slurm.conf").read_text()
    port = next(line for line in config.splitlines() if line.startswith("SlurmctldPort="))
    dead = tmp_path / "slurm.conf"
    other = config.replace(port, "SlurmctldPort=21799\nMessageTimeout=2").replace("AccountingStoragePort=", "#")
    dead.write_text(other.replace("AccountingStorageHost=", "AccountingStoragePort=21798\nAccountingStorageHost="))
    monkeypatch.setenv("SLURM_CONF", str(dead))
    with pytest.raises(UserError, match=r"^SLURM does not answer \(squeue: .*; sacct: .*\)\.$"):
        states(["1"])
    with pytest.raises(UserError, match=r"^SLURM does not answer \(.*\): ask its administrators\.$"):
        cluster.submit(VERSION, tmp_path / "never")


def test_an_unknown_partition(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no partition 'gpu' \(--launch.partition\); there are: high, main, short\.$"):
        cluster.submit(VERSION, tmp_path, partition="gpu")
    assert not list(tmp_path.iterdir())


def test_what_sbatch_refuses(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^sbatch refuses the job \(.+\): see --launch.dry-run\.$"):
        cluster.submit(VERSION, tmp_path, gpus=3)


def test_a_job_that_would_wait_forever(cluster: Any, tmp_path: Path) -> None:
    words = ["coder", "--out", str(tmp_path / "codes")]
    asked = LaunchConfig(where="slurm", partition="short", hours=1)
    with pytest.raises(UserError, match=r"^job \d+ would wait forever and was canceled: .*fewer hours") as error:
        dispatch("hash encode", words, asked, many=False, own_folder=False)
    assert cluster.wait(str(error.value).split()[1]).state == "CANCELLED"
    assert (tmp_path / "codes.slurm" / "launch").is_dir()  # beside what the command makes as a whole
    assert not (tmp_path / "codes").exists()


def test_a_job_that_waits_says_why(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["coder", "--out", str(tmp_path / "codes")]
    asked = launch(sbatch=("begin=now+1hour",))
    assert dispatch("hash encode", words, asked, many=False, own_folder=False) == 0
    out = capsys.readouterr().out
    assert "it waits: " in out
    assert "(BeginTime)." in out
    subprocess.run(["scancel", out.split()[1]], check=True)


def test_a_python_that_lacks_what_the_job_needs(cluster: Any, tmp_path: Path) -> None:
    job = cluster.submit(VERSION, tmp_path, python="/usr/bin/env -i /usr/bin/python3 -S -P")
    found = cluster.wait(job)
    assert (found.state, found.exit_code) == ("FAILED", 2)
    log = cluster.log(tmp_path, job)
    assert "on node umbel1 cannot import what the job needs (ModuleNotFoundError: No module named 'submitit')" in log
    assert "Traceback" not in log


def test_an_output_folder_that_a_node_does_not_see(cluster: Any, tmp_path: Path) -> None:
    job = cluster.submit(VERSION, tmp_path, sbatch=("hold",))
    (tmp_path / "launch" / "submitted").unlink()
    subprocess.run(["scontrol", "release", job], check=True)
    found = cluster.wait(job)
    assert (found.state, found.exit_code) == ("FAILED", 2)
    assert f"umbel: {tmp_path}/launch is not seen by node umbel1: choose an --out" in cluster.log(tmp_path, job)


def test_out_of_memory(cluster: Any, tmp_path: Path) -> None:
    eater = tmp_path / "eater"
    eater.mkdir()
    (eater / "sitecustomize.py").write_text(EATS_MEMORY)
    run = tmp_path / "run"
    run.mkdir()
    row = json.dumps({"step": 7, "memory_gib": 0.25})
    (run / "metrics.jsonl").write_text(row + "\n")
    words = ["--version"]
    job = cluster.submit(words, run, memory=0.25, setup=(f"export PYTHONPATH={eater}",))
    found = cluster.wait(job)
    assert (found.state, found.exit_code) == ("FAILED", 2)
    log = cluster.log(run, job)
    assert "umbel: out of memory (SLURM counted 0." in log
    assert "of 0.25; a process had had 0.25 GiB by step 7): ask for more (--launch.memory)" in log
    assert cluster.restart_count(job) == 0


def test_a_dry_run_submits_nothing(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("format: 1\npartition: high\nsetup: [module load cuda]\n")
    done = cluster.umbel(
        "hash", "encode", "coder", "--embeddings", "features", "--out", tmp_path / "codes",
        "--launch", "slurm", "--launch.site", site, "--launch.hours", 3, "--launch.dry-run",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    settings, _, script = done.stdout.partition("folder: ")
    assert "partition: high\n" in settings
    assert "hours: 3.0\n" in settings
    for line in ("#SBATCH --partition=high", "#SBATCH --time=180", "module load cuda", "#SBATCH --signal=USR2@120"):
        assert f"\n{line}\n" in script
    syntax = subprocess.run(["bash", "-n"], input=script[script.index("#!") :], text=True, capture_output=True)
    assert syntax.returncode == 0, syntax.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["site.yaml"]


def test_the_doctor_names_the_partitions(cluster: Any) -> None:
    from umbel.doctor import slurm  # and torch with it

    assert slurm().startswith("partitions main 2 nodes gpu:2 1-00:00:00; high 2 nodes")


@pytest.mark.slow
def test_fifty_submissions_in_a_row(cluster: Any, tmp_path: Path) -> None:
    jobs = [cluster.submit(VERSION, tmp_path) for _ in range(50)]
    assert len(set(jobs)) == 50
    assert [cluster.wait(job, 600).state for job in jobs] == ["COMPLETED"] * 50
    assert len(list((tmp_path / "launch").glob("code-*"))) == 1
    assert len(list((tmp_path / "launch").glob("job-*.json"))) == 50
