"""The sbatch script among the examples: put back in the queue in the middle, and run to the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm
CHECKOUT = Path(__file__).parents[2]


def test_the_example_is_continued(cluster: Any, tmp_path: Path) -> None:
    run, tool = tmp_path / "run", tmp_path / "bin"
    tool.mkdir()
    (tool / "umbel").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m umbel "$@"\n')
    (tool / "umbel").chmod(0o755)
    environment = cluster.environment | {"PATH": f"{tool}:{cluster.environment['PATH']}", "OUT": str(run)}
    environment |= {"DATA": str(cluster.plants), "OPTIONS": f"--recipe {cluster.recipe}"}
    command = ["sbatch", "--parsable", str(CHECKOUT / "examples" / "pretrain.sbatch")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    job = done.stdout.strip()
    cluster.sent.append(job)
    cluster.wait_until(lambda: list(run.glob("checkpoints/step-0000000[48]")))
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    found = cluster.wait(job)
    assert found.state == "COMPLETED", (tmp_path / f"pretrain-{job}.log").read_text()
    starts = cluster.starts(run)
    assert [start["job"]["restart"] for start in starts] == list(range(len(starts)))
    assert cluster.rows(run)[-1]["step"] == 24
