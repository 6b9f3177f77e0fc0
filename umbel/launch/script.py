"""The batch script of a job: submitit's, with our lines before and behind the command."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from umbel.launch.launch_config import CONTROL, LaunchConfig
from umbel.run import UserError
from umbel.surroundings import RESTART

MARKER = "submitted"
"""Empty file that the submitter leaves and every node must see."""


class SlurmExecutor(submitit.SlurmExecutor):  # type: ignore[misc]
    """submitit's, also where there is no srun: a dry run needs none, and a real one is refused in words of ours."""

    @classmethod
    def affinity(cls) -> int:
        """Above 0: it may be made."""
        return 1

    def script(self) -> str:
        """The text that sbatch is given."""
        text: str = self._make_submission_file_text(self._submitit_command_str, "")
        return text


def executor(
    launch: LaunchConfig, *, folder: Path, out: Path, code: Path, name: str, after: Sequence[str], at_once: int | None
) -> SlurmExecutor:
    """Made for jobs with one configuration.

    Args:
        folder: for scripts and logs.
        out: what the command writes.
        code: goes in front of Python's path.
    """
    python = " ".join(filter(None, (launch.prefix, launch.python or shlex.quote(sys.executable))))
    # submitit puts its own words behind: they are the arguments of this shell, and of Python within it.
    within = shlex.quote(f'\nexec {python} "$@"')
    made = SlurmExecutor(folder, python=f'bash -c "$umbel_check"{within} umbel')
    own: dict[str, Any] = {"requeue": True}
    if after:
        own |= {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"}
    given = (option.partition("=") for option in launch.sbatch)
    own |= {option: value if equals else True for option, equals, value in given}
    batch = f"{python} -m umbel.launch.batch"
    places = f"{shlex.quote(str(folder))} {shlex.quote(str(out))}"
    asked: dict[str, Any] = {
        "job_name": name,
        "time": launch.minutes,
        "nodes": launch.nodes,
        "ntasks_per_node": launch.tasks,
        "gpus_per_node": launch.gpus,
        "cpus_per_task": launch.cpus,
        "mem": launch.memory and f"{round(launch.memory * 1024)}M",
        "partition": launch.partition,
        "account": launch.account,
        "qos": launch.qos,
        "constraint": launch.constraint,
        "exclude": launch.exclude,
        "comment": launch.comment,
        "signal_delay_s": launch.signal_delay,
        "array_parallelism": at_once,
        "setup": [
            *launch.setup,
            # bash waits for srun to end and then goes on behind it, also when it is told to end meanwhile.
            "trap : TERM USR2",
            "set +e",
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
            # With -m Python would look into the folder of the submission first, which may be the checkout.
            "export PYTHONSAFEPATH=1",
            f"export UMBEL_SIGNAL_DELAY={launch.signal_delay}",
            f"export umbel_check={shlex.quote(_check(folder, python))}",
            '(eval "$umbel_check") || exit 2',
            f"{RESTART}=$({batch} begin {places} {launch.requeues}) || exit $?",
            f"export {RESTART}",
        ],
        "teardown": ["code=$?", f"{batch} end $code {places}", "exit $?"],
        # srun takes the processors of a task from its own words alone since SLURM 22.05.
        "srun_args": [f"--cpus-per-task={launch.cpus}"] if launch.cpus else None,
        "additional_parameters": own,
    }
    made.update_parameters(**{key: value for key, value in asked.items() if value is not None})
    return made


def check_place(*places: Path) -> None:
    """Refuse a path that a batch script cannot name.

    Raises:
        UserError: it has a control character, or one that SLURM reads as a pattern where a log's path stands.
    """
    for place in places:
        if CONTROL.search(str(place)):
            raise UserError(f"{str(place)!r} has a control character, which breaks a batch script: name --out plainly.")
        if found := re.search(r"[%\\]", str(place)):
            raise UserError(f"{place}: SLURM gives '{found[0]}' in the path of a log a meaning: choose another --out.")


def _check(folder: Path, python: str) -> str:
    """Shell that ends with 2 and a sentence on a node that lacks the folder or a library."""
    quote = shlex.quote
    node = '"${SLURMD_NODENAME:-$(hostname)}"'
    unseen = f"{quote(f'umbel: {folder} is not seen by node')} {node}: choose an --out on a disk that all nodes share."
    broken = f"{quote(f'umbel: {python} on node')} {node} cannot import what the job needs"
    mend = "mend it by --launch.python, --launch.prefix or --launch.setup."
    return "\n".join(
        (
            f"if ! test -e {quote(str(folder / MARKER))}; then",
            f"  echo {unseen} >&2; exit 2",
            "fi",
            f'if ! umbel_error=$({python} -c "import submitit, umbel.launch.job" 2>&1); then',
            f'  echo {broken} "($(tail -n 1 <<<"$umbel_error")):" {mend} >&2; exit 2',
            "fi",
        )
    )
