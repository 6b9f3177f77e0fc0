"""What a job's batch script says around the command: `python -m umbel.launch.batch begin|end ...`.

It stands outside of the command's processes, so it also speaks when one of them was killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from umbel.launch.out_of_memory import MARK, out_of_memory
from umbel.launch.restarts import WITHOUT_A_WORD, NoProgressError, Restarts
from umbel.run import EXIT_INTERRUPTED, EXIT_REQUEUE, EXIT_TRAINING_FAILED, EXIT_USER_ERROR

_SECONDS = 60
"""In which a client of SLURM must answer."""
PATIENCE = 600
"""Seconds in which a controller that does not answer may come back, before a job is put back into its queue."""


def job_id() -> str:
    """This job's, as its files are named."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def begin(folder: Path, out: Path, requeues: int) -> int:
    """Note the start; prints why it is not the first one, for the environment of the command."""
    restart, nodes = int(os.environ.get("SLURM_RESTART_COUNT", "0")), os.environ["SLURM_JOB_NODELIST"]
    print(f"{MARK}{restart} of job {job_id()} on {nodes}, {time.strftime('%F %T')}.", file=sys.stderr)
    try:
        reason = Restarts(folder, job_id()).begin(restart, out, nodes, requeues, _why_requeued)
    except NoProgressError as error:
        print(f"umbel: {error}", file=sys.stderr)
        return EXIT_TRAINING_FAILED
    if reason is not None:
        print(f"umbel: started again: {reason}.", file=sys.stderr)
        print(reason)
    return 0


def end(code: int, folder: Path, out: Path) -> int:
    """Put the job back in the queue if it is to go on; returns the script's exit code."""
    restarts = Restarts(folder, job_id())
    sentence = out_of_memory(folder, job_id(), out) if code > 128 or code == EXIT_TRAINING_FAILED else None
    if sentence is not None:
        restarts.note("end", code=code, reason="out of memory", requeue=False)
        print(f"umbel: {sentence}", file=sys.stderr)
        return EXIT_USER_ERROR
    if code != EXIT_REQUEUE and (code <= 128 or code == EXIT_INTERRUPTED):
        restarts.note("end", code=code, reason=f"exit code {code}", requeue=False)
        return code
    shown = _show_patiently(os.environ["SLURM_JOB_ID"])
    reason = why_it_ended(code, shown, int(os.environ.get("SLURM_RESTART_COUNT", "0")))
    # A job that was canceled would come to life again if it were put back: only one that SLURM has not ended itself is,
    # or one that it ended for its time, before it had saved. Of what it puts back itself it needs no reminder.
    back = shown["JobState"] == "RUNNING" or reason.startswith(TIME_LIMIT)
    restarts.note("end", code=code, reason=reason, requeue=back)
    print(f"umbel: {'back into the queue' if back else 'ended by SLURM'}: {reason}.", file=sys.stderr, flush=True)
    if back:
        _requeue()
    return code


def _requeue() -> None:
    command = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        refusal = done.stderr.strip().rstrip(".")
        print(f"umbel: SLURM does not take the job back ({refusal}): submit the same again.", file=sys.stderr)


TIME_LIMIT = "the time limit of "
CANCELED = "canceled"
_WARNING_SECONDS = 60
"""Which SLURM may be early with the signal before the time limit."""


def why_it_ended(code: int, shown: Mapping[str, str], restart: int) -> str:
    """In words, from what `scontrol show job` says of a job whose command saved (75) or was killed (128 + signal)."""
    if shown.get("PreemptTime", "None") != "None":
        return "preempted"
    if int(shown.get("Restarts", restart)) > restart:
        return "scontrol requeue"
    left = seconds(shown.get("TimeLimit", "UNLIMITED")) - seconds(shown.get("RunTime", "00:00:00"))
    ended = shown["JobState"] != "RUNNING"
    if left < (2 if ended else int(os.environ.get("UMBEL_SIGNAL_DELAY", "0")) + _WARNING_SECONDS):
        return TIME_LIMIT + shown["TimeLimit"]
    if ended:  # `scontrol` says COMPLETING, and not which end this is
        return CANCELED
    return f"a process was ended by signal {code - 128}" if code > 128 else "SIGTERM or SIGUSR2"


def seconds(text: str) -> float:
    """Of a duration as SLURM writes it: [days-]hours:minutes:seconds, or a word for one without end."""
    days, _, rest = text.rpartition("-")
    try:
        hours, minutes, left = map(int, rest.split(":"))
    except ValueError:
        return float("inf")
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + left


def _why_requeued() -> str:
    """How the last start ended, of which the batch script saw no end, in accounting's word."""
    job = job_id()
    command = ["sacct", "-D", "-X", "-n", "-P", "-j", job, "-o", "JobID,State"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return WITHOUT_A_WORD
    rows = [line.split("|") for line in done.stdout.splitlines()]
    found = [state.split()[0] for name, state in rows if name == job]
    # The last row is of this start; accounting may not know of it yet.
    ended = [state for state in found if state not in ("RUNNING", "PENDING")]
    return _ENDS.get(ended[-1], f"SLURM says {ended[-1]}") if ended else WITHOUT_A_WORD


_ENDS = {"REQUEUED": "scontrol requeue", "PREEMPTED": "preempted", "NODE_FAIL": "a node failed"}


def show_job(job: str) -> dict[str, str]:
    """What `scontrol show job` says; the state alone, as UNKNOWN, where it does not answer."""
    try:
        command = ["scontrol", "show", "job", "-o", job]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return {"JobState": "UNKNOWN"}
    pairs = (word.split("=", 1) for word in done.stdout.split() if "=" in word)
    return {"JobState": "UNKNOWN"} | dict(pairs)


def _show_patiently(job: str) -> dict[str, str]:
    """Wait for a controller that is being restarted."""
    until = time.monotonic() + PATIENCE
    while (shown := show_job(job))["JobState"] == "UNKNOWN" and time.monotonic() < until:
        time.sleep(5)
    return shown


def main(words: list[str]) -> int:
    """`begin FOLDER OUT REQUEUES` or `end CODE FOLDER OUT`."""
    if words[0] == "begin":
        return begin(Path(words[1]), Path(words[2]), int(words[3]))
    return end(int(words[1]), Path(words[2]), Path(words[3]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
