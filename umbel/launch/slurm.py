"""Submitting commands as SLURM jobs, through submitit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from umbel.launch.launch_config import LaunchConfig


def submit(argv: Sequence[str], launch: LaunchConfig, *, folder: Path, name: str, after: Sequence[str] = ()) -> str:
    """Submit a command as a job and return the job's id.

    Args:
        argv: the words behind `umbel`.
        folder: of what the command writes; `launch/job-<id>.json`, scripts, logs and the copy of the code go below it.
        name: of the job, in SLURM's lists.
        after: ids of jobs that must have ended well; SLURM cancels the job when one of them does not.

    Raises:
        UserError: no SLURM here, or it refuses the job.
    """
    raise NotImplementedError


def submit_array(
    argvs: Sequence[Sequence[str]], launch: LaunchConfig, *, folder: Path, name: str, at_once: int | None
) -> list[str]:
    """Submit commands as one array and return the tasks' ids ("123_0", ...).

    Args:
        at_once: tasks that may run at the same time; None for no limit.

    Raises:
        UserError: as `submit`.
    """
    raise NotImplementedError
