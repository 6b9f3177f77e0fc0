"""Submitting commands as SLURM jobs, through submitit."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError

from umbel.config import to_values
from umbel.launch import snapshot
from umbel.launch.job import Job
from umbel.launch.launch_config import LaunchConfig
from umbel.launch.script import MARKER, check_place, executor
from umbel.run import UserError, write_atomic

# What a shell inside of a job or a rank carries, and a new job must not take over.
_STALE = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_", "TORCHELASTIC_", "UMBEL_")
_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def submit(argv: Sequence[str], launch: LaunchConfig, *, folder: Path, name: str, after: Sequence[str] = ()) -> str:
    """Submit a command as a job and return the job's id.

    Args:
        argv: the words behind `umbel`.
        folder: of what the command writes; `launch/job-<id>.json`, scripts, logs and the copy of the code go below it.
        name: of the job, in SLURM's lists.
        after: ids of jobs that must have ended well; SLURM cancels the job when one of them does not.

    Raises:
        UserError: no SLURM here, it refuses the job, or a batch script cannot name the folder.
    """
    return _submit([argv], launch, folder=folder, name=name, after=after, at_once=None)[0]


def submit_array(
    argvs: Sequence[Sequence[str]], launch: LaunchConfig, *, folder: Path, name: str, at_once: int | None
) -> list[str]:
    """Submit commands as one array and return the tasks' ids ("123_0", ...; "123" for one alone).

    Args:
        at_once: tasks that may run at the same time; None for no limit.

    Raises:
        UserError: as `submit`.
    """
    return _submit(argvs, launch, folder=folder, name=name, after=(), at_once=at_once or len(argvs))


def script(argv: Sequence[str], launch: LaunchConfig, *, folder: Path, name: str) -> str:
    """The batch script that `submit` would hand in; nothing is written.

    Raises:
        UserError: it cannot name the folder.
    """
    place = folder.resolve() / "launch"
    code = snapshot.place(place, copy=launch.snapshot)
    out = output(argv, folder)
    check_place(place, out)
    return executor(launch, folder=place, out=out, code=code, name=name, after=(), at_once=None).script()


def _submit(
    argvs: Sequence[Sequence[str]],
    launch: LaunchConfig,
    *,
    folder: Path,
    name: str,
    after: Sequence[str],
    at_once: int | None,
) -> list[str]:
    place = folder.resolve() / "launch"
    # An array is one script; its tasks' progress is what lies in the common folder.
    out = output(argvs[0], folder) if len(argvs) == 1 else folder.resolve()
    check_place(place, out)
    check_cluster(launch)
    place.mkdir(parents=True, exist_ok=True)
    (place / MARKER).touch()
    code = snapshot.take(place, copy=launch.snapshot)
    made = executor(launch, folder=place, out=out, code=code.folder, name=name, after=after, at_once=at_once)
    alone = len(argvs) == 1
    quiet = contextlib.redirect_stderr(io.StringIO())  # submitit repeats there what sbatch says
    try:
        with clean_environment(), quiet, contextlib.nullcontext() if alone else made.batch():
            jobs = [made.submit(Job(argv=tuple(argv))) for argv in argvs]
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"sbatch refuses the job ({_first_line(error)}): see --launch.dry-run.") from error
    for job, argv in zip(jobs, argvs, strict=True):
        told = {
            "format": 1,
            "id": job.job_id,
            "name": name,
            "command": list(argv),
            "after": list(after),
            "resources": to_values(launch),
            "commit": code.commit,
            "diff": code.diff,
            "snapshot": code.snapshot,
            "submitted": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_atomic(place / f"job-{job.job_id}.json", json.dumps(told, indent=1) + "\n")
    return [job.job_id for job in jobs]


def check_cluster(launch: LaunchConfig) -> None:
    """Refuse in a sentence what sbatch would refuse, or could not be asked.

    Raises:
        UserError: no SLURM here, its controller does not answer, or it has no such partition.
    """
    if shutil.which("sbatch") is None:
        raise UserError("there is no SLURM here (no sbatch in PATH): log in to a cluster, or --launch local.")
    try:
        done = subprocess.run(["sinfo", "-a", "-h", "-o", "%R"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"SLURM does not answer ({error}): ask its administrators.") from error
    if done.returncode:
        raise UserError(f"SLURM does not answer ({_first_line(done.stderr)}): ask its administrators.")
    there = sorted(set(done.stdout.split()))
    unknown = [name for name in (launch.partition or "").split(",") if name and name not in there]
    if unknown:
        raise UserError(f"SLURM has no partition '{unknown[0]}' (--launch.partition); there are: {', '.join(there)}.")


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs; a training run saves before it ends.

    Raises:
        UserError: SLURM refuses.
    """
    done = subprocess.run(["scancel", *ids], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise UserError(f"scancel refuses ({_first_line(done.stderr)}).")


def output(argv: Sequence[str], folder: Path) -> Path:
    """What a command writes: its --out, or the folder."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--out":
            return Path(following).resolve()
        if word.startswith("--out="):
            return Path(word.removeprefix("--out=")).resolve()
    return folder.resolve()


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """Hide what a shell inside of a job, or a rank, has in its environment."""
    before = dict(os.environ)
    for name in before:
        if (name.startswith(_STALE) and name != "SLURM_CONF") or name in _RANKS:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def _first_line(error: object) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or ["no reason given"]
    return lines[0].removeprefix("sbatch: ").removeprefix("error: ").rstrip(".")
