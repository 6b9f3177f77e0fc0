"""Whether a job ended for want of memory, and with what figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

GIB = 2**30
_SIGNS = re.compile(r"oom[_-]kill|out of memory|exceeded memory limit|exceeded job memory limit", re.IGNORECASE)
_FIGURES = re.compile(r"exceeded memory limit \((\d+) > (\d+)\)")
MARK = "umbel: start "
"""Begins the line in the log with which each start of a job begins."""


def out_of_memory(folder: Path, job: str, out: Path) -> str | None:
    """A sentence with the last figures if SLURM or the system ended the job's last start for want of memory.

    Args:
        folder: where the job's log is.
        out: what the command writes: a run's metrics tell its memory.
    """
    log = folder / f"{job}_0_log.err"
    if not log.exists():
        return None
    said = log.read_text(errors="replace").rpartition(MARK)[2]
    if not _SIGNS.search(said):
        return None
    figures = [f"SLURM counted {int(m[1]) / GIB:.2f} GiB of {int(m[2]) / GIB:.2f}" for m in _FIGURES.finditer(said)][:1]
    figures += _of_metrics(out)
    told = f" ({'; '.join(figures)})" if figures else ""
    return f"out of memory{told}: ask for more (--launch.memory), or lower the batch or the data workers."


def _of_metrics(out: Path) -> list[str]:
    rows = []
    for file in (*out.glob("metrics.jsonl"), *out.glob("*/metrics.jsonl")):
        rows += [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    row = next((row for row in reversed(rows) if "memory_gib" in row), None)
    return [] if row is None else [f"a process had had {row['memory_gib']:.2f} GiB by step {row['step']}"]
