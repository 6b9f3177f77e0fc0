"""Pipelines as jobs of a real cluster: dependencies, a failure in the middle, photographs of flowers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

RECIPE = """
format: 1
command: pipeline
synthetic: {train: 96, test: 48, size: 64, shard_size: 48}
pretrain: {recipe: RECIPE_FILE, train: {epochs: 1.0}}
embed: {}
probe: {shots: [SHOTS], draws: 5, baselines: false}
hash_fit: {method: itq, bits: 8}
hash_encode: {}
hash_evaluate: {}
export: {}
report: {}
"""
STEPS = ["shards", "pretrain", "embed", "probe", "hash_fit", "hash_encode", "hash_evaluate", "export", "report"]
SLURM = ("--device", "cpu", "--launch", "slurm", "--launch.hours", "0.5")


def recipe(cluster: Any, name: str, shots: int, *, hashing: bool = True) -> Path:
    file: Path = cluster.folder / name
    text = RECIPE.replace("RECIPE_FILE", str(cluster.recipe)).replace("SHOTS", str(shots))
    file.write_text("".join(line for line in text.splitlines(True) if hashing or not line.startswith("hash_")))
    return file


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((out / "pipeline.json").read_text())["tasks"]}


def sent(out: Path) -> dict[str, list[str]]:
    """The jobs that each job waits for, by the records of their submission."""
    told = [json.loads(file.read_text()) for file in out.rglob("launch/job-*.json")]
    return {one["id"]: one["after"] for one in told}


def test_the_synthetic_plants(cluster: Any) -> None:
    out = cluster.folder / "plants-pipeline"
    command = ("pipeline", recipe(cluster, "plants.yaml", 1), "--out", out, *SLURM, "--wait")
    done = cluster.umbel(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(out)
    assert list(found) == STEPS
    assert {row["state"] for row in found.values()} == {"done"}
    jobs = {name: row["job"] for name, row in found.items()}
    assert len(set(jobs.values())) == len(STEPS)
    waits = sent(out)
    assert waits[jobs["shards"]] == []
    assert waits[jobs["hash_encode"]] == [jobs["hash_fit"], jobs["embed"]]
    assert waits[jobs["report"]] == [jobs["pretrain"], jobs["probe"], jobs["hash_evaluate"]]
    assert (out / "run" / "report.html").is_file()
    # Nothing is sent twice, even where the record is lost.
    told = json.loads((out / "pipeline.json").read_text())
    for row in told["tasks"]:
        row |= {"state": "pending"}
        del row["job"]
    (out / "pipeline.json").write_text(json.dumps(told))
    again = cluster.umbel(*command)
    assert again.stdout.count("done already") == len(STEPS), again.stdout + again.stderr
    assert len(sent(out)) == len(STEPS)
    listed = json.loads(cluster.umbel("jobs", out, "--json").stdout)["jobs"]
    assert [one["state"] for one in listed] == ["ended"] * len(STEPS)
    assert listed[1]["step"] == listed[1]["steps"] == 12


@pytest.mark.slow
def test_a_failing_step_cancels_what_needs_it(cluster: Any) -> None:
    out = cluster.folder / "failing-pipeline"
    command = ("--out", out, *SLURM, "--wait")
    done = cluster.umbel("pipeline", recipe(cluster, "failing.yaml", 1000, hashing=False), *command)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    found = rows(out)
    bad = {name: row for name, row in found.items() if row["state"] != "done"}
    assert {name: row["state"] for name, row in bad.items()} == {"probe": "failed", "report": "canceled"}
    assert bad["report"]["why"] == "probe failed"
    assert "these photographs cannot be probed" in bad["probe"]["why"]
    assert bad["probe"]["exit_code"] == 2
    assert "probe failed: these photographs" in done.stderr
    told = {one["name"]: one for one in json.loads(cluster.umbel("jobs", out, "--json").stdout)["jobs"]}
    assert told[f"{out}: report"]["state"] == "canceled"
    # Mended, the same pipeline sends those two alone.
    mended = cluster.umbel("pipeline", recipe(cluster, "failing.yaml", 1, hashing=False), *command)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert mended.stdout.count("done already") == len(STEPS) - 5
    assert len(sent(out)) == len(STEPS) - 3 + 2


@pytest.mark.slow
def test_flowers(cluster: Any, shared_data: Path) -> None:
    out = cluster.folder / "flowers-pipeline"
    done = cluster.umbel(
        "pipeline", "pipeline/folder", "--data", shared_data / "flowers", "--out", out, *SLURM, "--wait"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(out)
    assert [row["state"] for row in found.values()] == ["done"] * (len(STEPS) - 1)  # the shards are there
    probed = json.loads((out / "run" / "probe.json").read_text())
    assert probed["photographs"]["queries"] == 711
    assert "report.html" in {path.name for path in (out / "run").iterdir()}


def test_a_cluster_that_refuses_is_told_in_a_sentence(cluster: Any, refused: Callable[..., str]) -> None:
    out = cluster.folder / "refused-pipeline"
    flags = ("--out", out, *SLURM, "--launch.partition", "nowhere")
    assert "no partition 'nowhere'" in refused("pipeline", recipe(cluster, "plants.yaml", 1), *flags)
