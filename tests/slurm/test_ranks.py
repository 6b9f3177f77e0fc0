"""Ranks over nodes and on one: the same training as one process of the same global batch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

TOLERANCE = 2e-4
"""Of the losses over 24 steps, which are of the order of 1: the ranks add up float32 in another order."""


def test_two_ranks_train_as_one_process_does_two_jobs_at_a_time(
    cluster: Any, undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """On two nodes, and both on one node, where the jobs share that node: neither meets the other's ranks."""
    over, within = tmp_path / "over", tmp_path / "within"
    jobs = {
        over: cluster.pretrain(over, "--train.batch", 4, nodes=2),
        within: cluster.pretrain(within, "--train.batch", 4, processes=2),
    }
    said = []
    for run, job in jobs.items():
        cluster.good(job, run)
        assert len(cluster.rows(run)) == len(undisturbed)
        for row, expected in zip(cluster.rows(run), undisturbed, strict=True):
            for name in ("step", "learning_rate"):
                assert row[name] == expected[name]
            for name in ("loss", "image_loss", "compression", "expansion", "patch_loss"):
                assert row[name] == pytest.approx(expected[name], abs=TOLERANCE), (run.name, row["step"], name)
        told = cluster.log(run, job, "out")
        found = re.search(
            r"2 processes: srun started them \(step (\d+)\.0 on (\S+)\); they meet at (umbel\d:\d+)", told
        )
        assert found is not None, told
        assert found[1] == job
        said.append(found[3])
        start = cluster.starts(run)[0]
        assert start["job"] == {"id": job, "nodes": found[2], "restart": 0, "reason": None}
        assert start["ranks"] == 2
        assert "launch/code-" in start["command"][0]
    assert len({place.split(":")[1] for place in said}) == 2


PLAIN = """#!/bin/bash
#SBATCH --ntasks=2 --time=5
export PYTHONPATH={checkout} OMP_NUM_THREADS=1
{line}
"""
LOOK = """
import os, sys
from umbel.launch.recognize import recognize
found = recognize()
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
told = [os.environ.get(n) for n in names] if found else None
open(sys.argv[1] + "." + os.environ.get("RANK", "none"), "w").write(__import__("json").dumps(told))
"""


def test_plain_srun_makes_ranks_and_an_allocations_own_shell_makes_none(cluster: Any, tmp_path: Path) -> None:
    look, script = tmp_path / "look.py", tmp_path / "job.sbatch"
    look.write_text(LOOK)
    python = f"{sys.executable} {look}"
    lines = (f"{python} {tmp_path}/batch", f"srun {python} {tmp_path}/step", f"srun -n 1 {python} {tmp_path}/single")
    script.write_text(PLAIN.format(checkout=Path(__file__).parents[2], line="\n".join(lines)))
    subprocess.run(["sbatch", "-W", "-o", str(tmp_path / "log"), str(script)], check=True, timeout=120)
    shell = ["salloc", "-Q", "--ntasks=2", "--time=5", *python.split(), str(tmp_path / "shell")]
    subprocess.run(shell, check=True, timeout=120, env=cluster.environment)
    for name in ("batch", "single", "shell"):
        assert json.loads((tmp_path / f"{name}.none").read_text()) is None, name
    for rank in ("0", "1"):
        told = json.loads((tmp_path / f"step.{rank}").read_text())
        assert told == [rank, "2", rank, "2", "umbel1"]
