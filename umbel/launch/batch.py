"""What a job's batch script says around the command: `python -m umbel.launch.batch begin|end ...`.

It stands outside of the command's processes, so it also speaks when one of them was killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from umbel.launch.out_of_memory import MARK, out_of_memory
from umbel.launch.restarts import NoProgressError, Restarts
from umbel.run import EXIT_INTERRUPTED, EXIT_REQUEUE, EXIT_TRAINING_FAILED, EXIT_USER_ERROR

_SCONTROL_SECONDS = 60


def job_id() -> str:
    """This job's, as its files are named."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def begin(folder: Path, out: Path, requeues: int) -> int:
    """Note the start; prints why it is not the first one, for the environment of the command."""
    restart, nodes = int(os.environ.get("SLURM_RESTART_COUNT", "0")), os.environ["SLURM_JOB_NODELIST"]
    print(f"{MARK}{restart} of job {job_id()} on {nodes}, {time.strftime('%F %T')}.", file=sys.stderr)
    try:
        reason = Restarts(folder, job_id()).begin(restart, out, nodes, requeues)
    except NoProgressError as error:
        print(f"umbel: {error}", file=sys.stderr)
        return EXIT_TRAINING_FAILED
    if reason is not None:
        print(f"umbel: started again: {reason}.", file=sys.stderr)
        print(reason)
    return 0


def end(code: int, folder: Path, out: Path) -> int:
    """Put the job back in the queue if it is to go on; returns the script's exit code."""
    shown = show_job(os.environ["SLURM_JOB_ID"])
    restarts = Restarts(folder, job_id())
    sentence = out_of_memory(folder, job_id(), out) if code > 128 or code == EXIT_TRAINING_FAILED else None
    if sentence is not None:
        restarts.note("end", code=code, reason="out of memory", requeue=False)
        print(f"umbel: {sentence}", file=sys.stderr)
        return EXIT_USER_ERROR
    reason = _reason(code, shown)
    goes_on = (code == EXIT_REQUEUE or (code > 128 and code != EXIT_INTERRUPTED)) and shown["JobState"] != "CANCELLED"
    restarts.note("end", code=code, reason=reason, requeue=goes_on)
    if goes_on:
        print(f"umbel: back into the queue: {reason}.", file=sys.stderr, flush=True)
        return _requeue(code)
    return code


def _requeue(code: int) -> int:
    job = os.environ["SLURM_JOB_ID"]
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=_SCONTROL_SECONDS)
    # A job that SLURM itself puts back (preempted, `scontrol requeue`) is pending already.
    if done.returncode and "pending" not in done.stderr.lower():
        refusal = done.stderr.strip().rstrip(".")
        print(f"umbel: SLURM does not take the job back ({refusal}): submit the same again.", file=sys.stderr)
    return code


def _reason(code: int, shown: dict[str, str]) -> str:
    if shown["JobState"] == "CANCELLED":
        return "canceled"
    if code not in (EXIT_REQUEUE,) and code <= 128:
        return f"exit code {code}"
    if shown.get("PreemptTime", "None") != "None":
        return "preempted"
    if shown["JobState"] in ("PENDING", "REQUEUED") or int(shown.get("Restarts", "0")) > _restart():
        return "scontrol requeue"
    if _seconds_left(shown) < int(os.environ.get("UMBEL_SIGNAL_DELAY", "0")) + 60:
        return f"the time limit of {shown.get('TimeLimit')}"
    if code > 128:
        return f"a process was ended by signal {code - 128}"
    return "SIGTERM or SIGUSR2"


def _restart() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _seconds_left(shown: dict[str, str]) -> float:
    try:
        return (datetime.fromisoformat(shown["EndTime"]) - datetime.now()).total_seconds()
    except (KeyError, ValueError):  # "Unknown"
        return float("inf")


def show_job(job: str) -> dict[str, str]:
    """What `scontrol show job` says; the state alone, as UNKNOWN, where it does not answer."""
    try:
        command = ["scontrol", "show", "job", "-o", job]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SCONTROL_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return {"JobState": "UNKNOWN"}
    pairs = (word.split("=", 1) for word in done.stdout.split() if "=" in word)
    return {"JobState": "UNKNOWN"} | dict(pairs)


def main(words: list[str]) -> int:
    """`begin FOLDER OUT REQUEUES` or `end CODE FOLDER OUT`."""
    if words[0] == "begin":
        return begin(Path(words[1]), Path(words[2]), int(words[3]))
    return end(int(words[1]), Path(words[2]), Path(words[3]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
