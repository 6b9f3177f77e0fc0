"""From a command line to where it runs: local processes, or a job's number in one line."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from umbel.config import to_values
from umbel.launch import slurm
from umbel.launch.job_state import states
from umbel.launch.launch_config import LaunchConfig
from umbel.launch.local import check_gpus, command, run_local
from umbel.launch.waiting import NEVER, why_it_waits
from umbel.run import EXIT_DONE, UserError, say

SECONDS = 2.0
"""After which SLURM has looked at a new job, and says why it waits."""


def dispatch(name: str, arguments: Sequence[str], launch: LaunchConfig, *, many: bool, own_folder: bool) -> int:
    """Run a command elsewhere than in this process; returns the exit code.

    Args:
        many: the command knows how to share its work among processes.
        own_folder: its --out is a folder that it continues, where logs may lie.

    Raises:
        UserError: what is asked for does not go together, or SLURM refuses it.
    """
    if launch.ranks > 1 and not many:
        raise UserError(f"`umbel {name}` runs in one process: --launch.nodes, gpus and processes can be 1 only.")
    if launch.where == "local":
        if launch.nodes > 1:
            raise UserError(f"--launch local has this machine alone, not {launch.nodes}: leave --launch.nodes out.")
        check_gpus(launch)
        if launch.dry_run:
            _show_settings(launch)
            for rank in range(launch.tasks):
                ranks = f"RANK={rank} LOCAL_RANK={rank} WORLD_SIZE={launch.tasks}"
                print(f"{ranks} {shlex.join(command([*name.split(), *arguments]))}")
            return EXIT_DONE
        return run_local([*name.split(), *arguments], launch)
    if "--force" in arguments:
        raise UserError("--force would begin anew at each restart of a job: move --out aside, or choose another one.")
    argv = [*name.split(), *arguments]
    out = slurm.output(argv, Path(f"umbel-{name.replace(' ', '-')}"))
    folder = out if own_folder else out.with_name(f"{out.name}.slurm")
    if launch.dry_run:
        script = slurm.script(argv, launch, folder=folder, name=name.replace(" ", "-"))
        _show_settings(launch)
        print(f"folder: {folder}\n\n{script}", end="")
        return EXIT_DONE
    job = slurm.submit(argv, launch, folder=folder, name=name.replace(" ", "-"))
    say(f"job {job} of {launch.ranks} processes; logs: {folder / 'launch' / f'{job}_0_log.out'} and .err")
    _say_state(job)
    return EXIT_DONE


def _show_settings(launch: LaunchConfig) -> None:
    print(yaml.safe_dump(to_values(launch), sort_keys=False), end="")


def _say_state(job: str) -> None:
    time.sleep(SECONDS)
    state = states([job])[job]
    if state.state != "PENDING":
        say(f"it is {state.state.lower()}.")
        return
    sentence = why_it_waits(state.reason)
    if state.reason in NEVER:
        if shutil.which("scancel"):
            slurm.cancel([job])
        raise UserError(f"job {job} would wait forever and was canceled: {sentence}.")
    say(f"it waits: {sentence}.")
