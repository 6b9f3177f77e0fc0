"""What is refused before anything starts, and the exit codes of local processes."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from umbel.config import to_values
from umbel.launch.dispatch import dispatch
from umbel.launch.job_state import states
from umbel.launch.launch_config import LaunchConfig
from umbel.launch.local import run_local
from umbel.launch.slurm import clean_environment, output, submit
from umbel.launch.waiting import why_it_waits
from umbel.run import UserError


@pytest.mark.parametrize(
    ("name", "words", "launch", "sentence"),
    [
        ("probe", [], LaunchConfig(where="slurm", gpus=2), "`umbel probe` runs in one process"),
        ("pretrain", [], LaunchConfig(where="local", nodes=2), "has this machine alone, not 2"),
        ("pretrain", ["d", "--force"], LaunchConfig(where="slurm"), "would begin anew at each restart"),
    ],
)
def test_what_does_not_go_together(name: str, words: list[str], launch: LaunchConfig, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        dispatch(name, words, launch, many=name == "pretrain", own_folder=True)
    assert sentence in str(error.value)


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^there is no SLURM here \(no sbatch in PATH\): .* --launch local\.$"):
        submit(["--version"], LaunchConfig(where="slurm"), folder=tmp_path / "run", name="n")
    with pytest.raises(UserError, match=r"^SLURM does not answer \(squeue: not here; sacct: not here\)\.$"):
        states(["1"])
    assert states([]) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("a\nb", "'{here}/a\\nb/launch' has a control character"),
        ("100%j", "{here}/100%j/launch: SLURM gives '%'"),
        ("a\\b", "{here}/a\\b/launch: SLURM gives '\\'"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_folder_that_a_script_cannot_name(
    out: str, sentence: str, dry_run: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = LaunchConfig(where="slurm", dry_run=dry_run)
    with pytest.raises(UserError) as error:
        dispatch("pretrain", ["data", "--out", out], asked, many=True, own_folder=True)
    assert str(error.value).startswith(sentence.format(here=tmp_path))
    assert not list(tmp_path.iterdir())


def test_sacct_is_asked_for_what_squeue_forgot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With clients that print what SLURM 22.05 prints."""
    row = f"{'7_1':64}{'RUNNING':24}{'None':96}{'0':16}"
    answers = {
        "squeue": f"echo '{row}'",
        "sacct": "echo '8|CANCELLED by 12|None|0:0'; echo '9|FAILED|NonZeroExitCode|3:0'; echo '10|FAILED|None|0:9'",
    }
    for name, line in answers.items():
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\n{line}\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = states(["7_1", "8", "9", "10", "11"])
    assert found["7_1"] == ("RUNNING", "", None)
    assert found["8"] == ("CANCELLED", "", 0)
    assert found["9"] == ("FAILED", "NonZeroExitCode", 3)
    assert found["10"] == ("FAILED", "", 137)
    assert found["11"] == ("UNKNOWN", "", None)


def test_a_job_takes_nothing_over_from_one_that_submits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = {"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "1", "MASTER_PORT": "5", "SLURM_CONF": "/c"}
    for name, value in stale.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with clean_environment():
        assert {name for name in stale if name in os.environ} == {"SLURM_CONF"}
        assert os.environ["PATH"] == before["PATH"]
    assert dict(os.environ) == before


def test_what_a_command_writes() -> None:
    assert output(["embed", "b", "--out", "x/y"], Path("f")) == Path("x/y").resolve()
    assert output(["embed", "b", "--out=z"], Path("f")) == Path("z").resolve()
    assert output(["probe", "b"], Path("f")) == Path("f").resolve()


def test_reasons_in_words() -> None:
    assert why_it_waits("Resources") == "until enough nodes are free (Resources)"
    assert why_it_waits("QOSMaxJobsPerUserLimit").startswith("a limit of your account or quality of service is reached")
    assert why_it_waits("PartitionTimeLimit").startswith("the partition allows fewer hours")
    assert why_it_waits("ReqNodeNotAvail, UnavailableNodes:n1").startswith("nodes that it needs are down")
    assert why_it_waits("Licenses") == "SLURM says Licenses"


def test_a_dry_run_of_local_processes_starts_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = LaunchConfig(where="local", processes=2, dry_run=True)
    words = ["d d", "--out", str(tmp_path / "run")]
    assert dispatch("shards check", words, asked, many=True, own_folder=True) == 0
    said, err = capfd.readouterr()
    settings, commands = said[: said.index("RANK=0")], said[said.index("RANK=0") :].splitlines()
    assert yaml.safe_load(settings) == to_values(asked)
    assert commands == [
        f"RANK={rank} LOCAL_RANK={rank} WORLD_SIZE=2 {sys.executable} -u -m umbel shards check 'd d' "
        f"--out {tmp_path / 'run'}"
        for rank in (0, 1)
    ]
    assert err == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("there", "words"), [(0, "no GPU"), (1, "1 GPU"), (3, "3 GPUs")])
@pytest.mark.parametrize("dry_run", [True, False])
def test_more_gpus_than_this_machine_has(
    there: int, words: str, dry_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    with pytest.raises(UserError, match=rf"^--launch.gpus 4: this machine has {words} that torch can use; .*\.$"):
        dispatch("pretrain", [], LaunchConfig(where="local", gpus=4, dry_run=dry_run), many=True, own_folder=True)


def test_as_many_gpus_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    asked = LaunchConfig(where="local", gpus=2, dry_run=True)
    assert dispatch("pretrain", [], asked, many=True, own_folder=True) == 0


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["no-such-command"], 2)])
def test_local_processes_end_with_the_commands_code(words: list[str], code: int) -> None:
    assert run_local(words, LaunchConfig(where="local", processes=2)) == code


WAITS = """
import pathlib, signal, sys, time
if "-m" in sys.orig_argv and "--version" in sys.orig_argv:
    def save(number, _):
        time.sleep(2)  # what a launcher that kills at once would cut off
        pathlib.Path(f"{place}/saved-{{__import__('os').environ['RANK']}}-{{number}}").touch()
        __import__("os")._exit(75)
    signal.signal(signal.SIGUSR2, save)
    signal.signal(signal.SIGTERM, save)
    pathlib.Path(f"{place}/ready-{{__import__('os').environ['RANK']}}").touch()
    time.sleep(100)
"""
STARTS = """
import sys
from umbel.launch.launch_config import LaunchConfig
from umbel.launch.local import run_local
sys.exit(run_local(["--version"], LaunchConfig(where="local", processes=2)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR2, marks=pytest.mark.slow)])
def test_local_processes_are_told_of_signals_and_have_the_time_to_save(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "sitecustomize.py").write_text(WAITS.format(place=tmp_path))
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    process = subprocess.Popen([sys.executable, "-c", STARTS], env={**os.environ, "PYTHONPATH": path})
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(60) == 75
    assert {path.name for path in tmp_path.glob("saved-*")} == {f"saved-{rank}-{number:d}" for rank in (0, 1)}
