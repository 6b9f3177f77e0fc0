"""Where a run's start took place: code, machine, job and why it was started again; for the run's record."""

from __future__ import annotations

import os
import socket
from typing import Any

from umbel.source_code import SourceCode

RESTART = "UMBEL_RESTART"
"""Why a job was started again, in words; set for its processes by what launched them."""
# Settings of a shell that change speed or numbers.
_TOLD = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TOLD_PREFIXES = ("NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "CUBLAS_")


def surroundings(code: SourceCode) -> dict[str, Any]:
    """Commit, diff, host, environment, and the SLURM job with its number of restarts."""
    environment = os.environ
    told: dict[str, Any] = {"commit": code.commit, "diff": code.diff_hash, "host": socket.gethostname()}
    names = [n for n in environment if n in _TOLD or n.startswith(_TOLD_PREFIXES)]
    told["environment"] = {name: environment[name] for name in sorted(names)}
    if "SLURM_JOB_ID" in environment:
        array = environment.get("SLURM_ARRAY_JOB_ID")
        task = f"{array}_{environment.get('SLURM_ARRAY_TASK_ID')}" if array else None
        told["job"] = {
            "id": task or environment["SLURM_JOB_ID"],
            "nodes": environment.get("SLURM_JOB_NODELIST"),
            "restart": int(environment.get("SLURM_RESTART_COUNT", "0")),
            "reason": environment.get(RESTART) or None,
        }
    return told
