"""Which launcher started this process: torchrun and its kin say what a rank is, plain srun says it in SLURM's words.

A shell of salloc and an sbatch script know of tasks too, but are none of them: only a step's own variables count.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping

from umbel.run import say

FIRST_PORT, PORTS = 12_000, 20_000
"""Of rendezvous: below those that systems give away by themselves."""
# SLURM numbers the steps that are no srun's (batch, extern, interactive) from here on.
_NO_TASKS = 4_294_967_290


def recognize(environment: MutableMapping[str, str] | None = None) -> str | None:
    """Complete RANK, WORLD_SIZE and the others that torch reads where only SLURM's variables are there.

    Says what was found when there is more than one process.

    Returns:
        What was found, in words; None for a single process.
    """
    environment = os.environ if environment is None else environment
    found = _found(environment)
    if found is not None:
        say(f"{environment['WORLD_SIZE']} processes: {found}.")
    return found


def _found(environment: MutableMapping[str, str]) -> str | None:
    if "RANK" in environment and "WORLD_SIZE" in environment:
        if int(environment["WORLD_SIZE"]) == 1:
            return None
        if "TORCHELASTIC_RUN_ID" in environment:
            launcher = "accelerate launch" if "ACCELERATE_MIXED_PRECISION" in environment else "torchrun"
            return f"{launcher} started them"
        return "RANK and WORLD_SIZE say so"
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    step = int(environment.get("SLURM_STEP_ID", _NO_TASKS))
    if tasks == 1 or step >= _NO_TASKS or "SLURM_PROCID" not in environment:
        return None
    job, nodes = int(environment["SLURM_JOB_ID"]), environment["SLURM_STEP_NODELIST"]
    ranks = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(_tasks_here(environment)),
    }
    environment.update(ranks)
    environment.setdefault("MASTER_ADDR", first_node(nodes))
    environment.setdefault("MASTER_PORT", str(port(job, step)))
    where = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
    return f"srun started them (step {job}.{step} on {nodes}); they meet at {where}, of the job's number"


def first_node(nodes: str) -> str:
    """The first name of a list in SLURM's short form: gpu[07-09,12],cpu1 -> gpu07."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def port(job: int, step: int) -> int:
    """Where the ranks of a step meet: the same on every rank, another one for jobs and steps at the same time."""
    # 61 and PORTS have no common factor: two jobs of 60 steps each meet apart if their numbers are within 300.
    return FIRST_PORT + (61 * job + step) % PORTS


def _tasks_here(environment: MutableMapping[str, str]) -> int:
    """This node's share of a list such as 2(x3),1."""
    counts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts[int(environment.get("SLURM_NODEID", "0"))]
