"""`umbel pipeline` and `umbel sweep` as whole commands here: real steps, killed in the middle, continued."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TINY = """
format: 1
command: pretrain
backbone: {name: vit_tiny_patch16_224, width: 32, depth: 2, heads: 2, patch: 8, registers: 2}
head: {hidden: 64, width: 32}
views: {global_size: 32, local_size: 16, local_views: 2}
optim: {warmup_epochs: 1.0, drop_path: 0.0}
reader: {canvas: 64, window: 2, workers: 0}
train: {batch: 8, epochs: 2.0, precision: float32, log_every: 1, save_every: 2}
"""
STEPS = """
format: 1
command: pipeline
synthetic: {train: 64, test: 48, size: 64, workers: 1}
pretrain: {recipe: TINY}
embed: {workers: 0}
probe: {shots: [1], draws: 5, baselines: false}
report: {}
"""
NAMES = ["shards", "pretrain", "embed", "probe", "report"]
CHECKOUT = Path(__file__).parents[2]


def start(*words: object) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "umbel", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for its end, which must be this one; returns what it said."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out + err


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "steps.yaml").write_text(STEPS.replace("TINY", str(folder / "tiny.yaml")))
    return folder


@pytest.fixture(scope="module")
def pipeline(scratch: Path) -> tuple[Path, list[object], str]:
    """A pipeline that was killed in its pretraining and continued; what the second command said."""
    out = scratch / "out"
    words: list[object] = ["pipeline", scratch / "steps.yaml", "--out", out, "--device", "cpu"]
    first = start(*words)
    wait_for(out / "run" / "checkpoints" / "step-00000004" / "training.pt", first)
    first.kill()
    first.communicate()
    assert states(out)["pretrain"] == "running"
    return out, words, finish(start(*words))


def states(out: Path) -> dict[str, str]:
    return {row["name"]: row["state"] for row in json.loads((out / "pipeline.json").read_text())["tasks"]}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_pipeline_goes_on_where_it_was(pipeline: tuple[Path, list[object], str]) -> None:
    out, _, told = pipeline
    assert states(out) == dict.fromkeys(NAMES, "done")
    assert told.count("done before") == 1  # the shards
    assert told.splitlines()[-1] == str(out / "run" / "report.html")
    assert [row["step"] for row in metrics(out / "run")] == list(range(1, 17))
    costs = json.loads((out / "run" / "steps.json").read_text())["steps"]
    assert [row["name"] for row in costs] == NAMES[:-1]
    assert all(row["seconds"] > 0 for row in costs[1:])


def test_the_same_command_again_runs_nothing(pipeline: tuple[Path, list[object], str]) -> None:
    out, words, _ = pipeline
    before = (out / "run" / "probe.json").stat().st_mtime_ns
    assert finish(start(*words)).count("done before") == len(NAMES)
    assert (out / "run" / "probe.json").stat().st_mtime_ns == before


def test_a_sweep_goes_on_over_a_failed_run_and_takes_more_values(
    pipeline: tuple[Path, list[object], str], scratch: Path
) -> None:
    out = scratch / "sweep"
    shards = pipeline[0] / "shards"
    place = ["--data", shards, "--out", out, "--device", "cpu", "--over", "train.epochs=0.25"]
    told = finish(start("sweep", scratch / "tiny.yaml", "--over", "train.batch=100,8", *place), code=3)
    assert "umbel: 1 of 2 runs failed (batch=100,epochs=0.25)" in told
    assert "Traceback" not in told
    failed, done = json.loads((out / "results.json").read_text())["rows"]
    assert (failed["state"], done["state"]) == ("failed", "done")
    assert "do not fill one batch of 100" in failed["why"]
    assert done["loss"] == metrics(out / "batch=8,epochs=0.25")[-1]["loss"]
    more = finish(start("sweep", scratch / "tiny.yaml", "--over", "train.batch=8,16", *place))
    assert "batch=8,epochs=0.25: done before" in more
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [(row["name"], row["state"]) for row in rows] == [
        ("batch=8,epochs=0.25", "done"),
        ("batch=16,epochs=0.25", "done"),
    ]
    assert rows[0] == done
