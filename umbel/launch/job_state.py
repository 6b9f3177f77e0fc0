"""What SLURM says of jobs: squeue knows those that wait, run or have just ended, sacct the older ones."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from umbel.run import UserError

SECONDS = 30
"""In which a client of SLURM must answer."""
UNKNOWN = "UNKNOWN"


class JobState(NamedTuple):
    """A job or an array's task as SLURM sees it."""

    state: str
    """PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, CANCELLED, ...; UNKNOWN where SLURM knows no such job."""
    reason: str
    """Why it waits or how it ended, in SLURM's word; empty where there is none."""
    exit_code: int | None
    """Of the batch script once it has ended; 128 + its number for a signal."""


def states(ids: Sequence[str]) -> dict[str, JobState]:
    """The state of each job ("123") and task of an array ("123_0").

    Raises:
        UserError: neither squeue nor sacct answers.
    """
    if not ids:
        return {}
    queue = _ask("squeue", "-a", "-h", "-r", "-t", "all", "-j", ",".join(ids), "-O", _COLUMNS)
    found = _of_squeue(queue) if isinstance(queue, str) else {}
    missing = [job for job in ids if job not in found]
    if missing:
        books = _ask("sacct", "-n", "-X", "-P", "-j", ",".join(missing), "-o", "JobID,State,Reason,ExitCode")
        if isinstance(books, str):
            found |= {job: state for job, state in _of_sacct(books).items() if job in missing}
        elif not isinstance(queue, str) and not queue.said("Invalid job id"):
            raise UserError(f"SLURM does not answer (squeue: {queue.first}; sacct: {books.first}).")
    return {job: found.get(job, JobState(UNKNOWN, "", None)) for job in ids}


# squeue cuts every column at the width that is asked for.
_COLUMNS = "JobArrayID:64,State:24,Reason:96,exit_code:16"
_WIDTHS = (64, 24, 96, 16)


def _of_squeue(text: str) -> dict[str, JobState]:
    found = {}
    for line in text.splitlines():
        cells, start = [], 0
        for width in _WIDTHS:
            cells.append(line[start : start + width].strip())
            start += width
        job, state, reason, status = cells
        over = state not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED")
        code = _exit_code(status) if over else None
        found[job] = JobState(state, "" if reason == "None" else reason, code)
    return found


def _of_sacct(text: str) -> dict[str, JobState]:
    found = {}
    for line in text.splitlines():
        job, state, reason, exit_code = line.split("|")
        state = state.split()[0]  # "CANCELLED by 1000"
        over = state not in ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED")
        code, signal = map(int, exit_code.split(":"))
        found[job] = JobState(
            state, "" if reason == "None" else reason, (128 + signal if signal else code) if over else None
        )
    return found


def _exit_code(status: str) -> int:
    """Of what squeue prints: the status that wait() gave, or CODE:SIGNAL."""
    if ":" in status:
        code, signal = map(int, status.split(":"))
        return 128 + signal if signal else code
    number = int(re.sub(r"\D", "", status) or 0)
    return 128 + (number & 0x7F) if number & 0x7F else number >> 8


class _NoAnswer(NamedTuple):
    """Why a client of SLURM did not answer."""

    first: str

    def said(self, words: str) -> bool:
        return words in self.first


def _ask(*command: str) -> str | _NoAnswer:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError:
        return _NoAnswer("not here")
    except subprocess.TimeoutExpired:
        return _NoAnswer(f"no answer in {SECONDS} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return _NoAnswer(lines[0].rstrip("."))
    return done.stdout
