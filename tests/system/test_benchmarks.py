"""Benchmarks that others build on: the step that they time is the loop's, and the GPU suite resumes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views
from umbel.cli import main as umbel
from umbel.config import from_values, read_recipe
from umbel.data.index import PRETRAINING_SPLITS, open_shards
from umbel.ssl.pretrain import first_backbone
from umbel.ssl.pretrain_config import PretrainConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 6
# Of the suite's tasks those that run code of their own: other models and seeds take the same way.
TASKS = ("checks.*", "throughput.ViT-B*", "end-to-end.ViT-B", "profile.ViT-B", "views.*", "policies.*-0", "demo.*")
RECIPE = """
format: 1
command: pretrain
backbone: {name: vit_tiny_patch16_224, width: 32, depth: 2, heads: 2, patch: 8, registers: 2}
head: {hidden: 64, width: 32}
views: {global_size: 32, local_size: 16, local_views: 2}
optim: {warmup_epochs: 1.0, drop_path: 0.2}
reader: {canvas: 64, window: 2, workers: 0}
train: {batch: 4, epochs: 2.0, precision: float32, log_every: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def start(name: str, *arguments: object, **settings: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **settings
    )


def run(name: str, *arguments: object) -> tuple[int, str, str]:
    process = start(name, *arguments)
    out, err = process.communicate(timeout=1200)
    return process.returncode, out, err


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder's modules can be imported, and are forgotten."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.mark.usefixtures("benchmarks")
def test_the_step_that_is_timed_is_the_loops(recipe: Path, foreign_shards: Callable[..., Path], tmp_path: Path) -> None:
    from step import TrainingStep, masked_batches, seen_of

    shards = foreign_shards(shards=2, count=6)
    out = tmp_path / "run"
    flags = ["--out", str(out), "--recipe", str(recipe), "--device", "cpu", "--optim.drop-path", "0"]
    assert umbel(["pretrain", str(shards), *flags]) == 0
    told = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(told) == STEPS
    config = from_values(PretrainConfig(data="", out=out), read_recipe(str(out / "config.yaml"), "pretrain"), "run")
    device = torch.device("cpu")
    torch.manual_seed(config.seed)
    backbone, _ = first_backbone(config)
    torch.manual_seed(config.seed)
    step = TrainingStep(
        config, device=device, precision="float32", backbone=backbone, steps_per_epoch=3, total_steps=STEPS
    )
    views = Views(config.views, seed=config.seed, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=device)
    opened = open_shards(str(shards)).select(PRETRAINING_SPLITS)
    with masked_batches(config, opened, patch=step.patch, workers=0, pin=False) as batches:
        losses = [float(step(seen_of(next(batches), views))) for _ in range(STEPS)]
    assert losses == pytest.approx([row["loss"] for row in told], abs=1e-5)
    assert losses[-1] != pytest.approx(losses[0], abs=1e-3)  # the optimizer has moved something


def test_a_training_step_beside_its_bound(recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    arguments = ["--sizes", recipe, "--precision", "float32", "--rounds", 2, "--device", "cpu", "--json", file]
    code, out, err = run("train_step.py", *arguments)
    assert code == 0, err
    found = json.loads(file.read_text())
    assert {"commit", "libraries", "device", "threads", "load"} <= found.keys()
    (step,) = found["steps"]
    assert {"bound: both networks", "bound without heads"} <= step["ratios"].keys()
    phases = step["phases"]["whole step"]
    assert {"teacher forward", "student forward", "backward", "clipping", "optimizer"} <= phases.keys()
    assert step["parts"].keys() == {"both heads", "image loss", "patch loss", "measures of a log line"}
    assert all(seconds > 0 for seconds in (*phases.values(), *step["parts"].values()))
    assert found["masks"][0]["masks"] > 0
    assert re.search(r"step / bound \d+\.\d+ \(aim 1\.1: (met|missed)\)", out)


def test_the_suite_lists_its_tasks_and_refuses_names_that_are_none(tmp_path: Path) -> None:
    code, out, _ = run("gpu_suite.py", "--list")
    assert code == 0
    assert out.splitlines()[0].startswith("checks.")
    assert "policies.plant-2" in out
    code, _, err = run("gpu_suite.py", "--only", "nothing", "--out", tmp_path)
    assert code == 2
    assert "names no task" in err


def test_a_task_that_does_not_fit_is_left_for_another_time(tmp_path: Path) -> None:
    flags = ["--out", tmp_path / "out", "--device", "cpu", "--tiny", "--minutes", "0.4"]
    code, out, err = run("gpu_suite.py", *flags)
    assert code == 0, err
    assert "checks.crops: 0.5 min do not fit into 0.2." in out
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([1.0, 1.2, 1.1], "+1.1 ± 0.2 points (95 % interval, 3 paired seeds): more than the noise of seeds."),
        ([1.0, -1.0, 0.6], "+0.2 ± 2.6 points (95 % interval, 3 paired seeds): inside the noise of seeds."),
        ([1.0], "1 seed in common: nothing can be said."),
    ],
)
def test_differences_of_policies_are_told_with_their_noise(differences: list[float], words: str) -> None:
    from gpu_tables import difference_in_words

    assert difference_in_words(differences) == words


def test_views_are_timed_beside_the_usual_ways(tmp_path: Path) -> None:
    code, out, err = run("augment.py", "--tiny", "--count", 2, "--rounds", 1, "--json", tmp_path / "found.json")
    assert code == 0, err
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["views"] for row in rows] == [
        "Umbel",
        "plain Kornia, the same parameters",
        "crops alone",
        "Kornia's modules and draws",
        "torchvision v2 on tensors",
        "torchvision v2 on Pillow images",
    ]
    for row in rows:
        assert row["images/s"] * row["ms an image"] == pytest.approx(1000)
        assert row["views"] in out


@pytest.mark.slow
def test_an_ablation_goes_on_and_compares_by_seed(tmp_path: Path) -> None:
    assert (
        umbel(["shards", "make", "synthetic", "--out", str(tmp_path / "plants"), "--train", "96", "--test", "24"]) == 0
    )
    command = ["ablation.py", tmp_path / "out", "--data", tmp_path / "plants", "--epochs", 1, "--draws", 2]
    tiny = ("backbone.width=32", "backbone.depth=2", "backbone.heads=2", "head.hidden=64", "train.batch=8")
    command += ["--seeds", 0, 1, "--recipes", "blur", "--override", *tiny, "probe.shots=1"]
    code, out, err = run(*command)
    assert code == 0, err
    runs = {name: (tmp_path / "out" / name / "metrics.jsonl").read_bytes() for name in ("plant-paper-0", "blur-1")}
    assert re.search(r"\| blur \| [\d.]+, [\d.]+ \| [\d.]+ \| .*2 paired seeds", out)
    code, again, err = run(*command)
    assert code == 0, err
    assert again.splitlines()[-4:] == out.splitlines()[-4:]
    assert all((tmp_path / "out" / name / "metrics.jsonl").read_bytes() == content for name, content in runs.items())


@pytest.mark.usefixtures("benchmarks")
def test_tables_tell_what_failed_and_what_was_wrong() -> None:
    from gpu_tables import tables

    setting = {"device": "cpu: x", "commit": "c0ffee", "libraries": {"torch": "2"}, "data": "plants", "tiny": True}
    policies = {
        f"policies.{name}-{seed}": {
            "state": "done",
            "setting": setting,
            "rows": [{"policy": name, "seed": seed, "5-shot %": score + seed, "20-NN %": 1.0}],
        }
        for name, score in (("plant", 30.0), ("none", 20.0))
        for seed in (0, 1)
    }
    page = tables(
        policies
        | {
            "checks.crops": {
                "state": "done",
                "setting": setting,
                "rows": [{"check": "a|b", "error": 2.0, "ok": False}],
            },
            "demo.demo-gpu": {"state": "failed", "seconds": 3.0, "error": ["first", "last words"]},
        }
    )
    assert "| a/b | 2 | **NO** |" in page
    assert "**demo.demo-gpu failed** after 3 s: `last words`" in page
    assert "cpu: x, umbel c0ffee, torch 2, data: plants, tiny models" in page
    assert "| plant | 2 | 30.5 ± 0.7 | 1.0 ± 0.0 |" in page
    assert "5-shot, plant less none: +10.0 ± 0.0 points" in page


@pytest.mark.slow
def test_the_whole_suite_is_killed_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--out", out, "--device", "cpu", "--tiny", "--only", *TASKS]
    process = start("gpu_suite.py", *flags, start_new_session=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(done(out)) < 2:
        time.sleep(0.1)
    time.sleep(2)  # into the next task
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = done(out)
    assert 2 <= len(before) < 10
    code, told, err = run("gpu_suite.py", *flags)
    assert code == 0, told + err
    after = done(out)
    assert {name: after[name]["time"] for name in before} == {name: result["time"] for name, result in before.items()}
    _, listed, _ = run("gpu_suite.py", "--list", "--only", *TASKS)
    assert after.keys() == {line.split()[0] for line in listed.splitlines()}
    assert {result["state"] for result in after.values()} <= {"done", "skipped"}
    assert all(row.get("ok", True) for result in after.values() for row in result["rows"])
    assert "## Policies" in (out / "tables.md").read_text()
    again = run("gpu_suite.py", *flags[: -len(TASKS)], "checks.optimizer", "policies.plant-0")
    assert again[1].splitlines()[0] == "0 of 2 tasks are to be run."


@pytest.mark.slow
def test_a_task_that_failed_is_kept_with_its_reason_and_run_again_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--out", out, "--device", "cpu", "--tiny", "--only", "policies.none-0"]
    code, _, _ = run("gpu_suite.py", *flags, "--data", tmp_path / "nowhere")
    assert code == 1
    failed = done(out)["policies.none-0"]
    assert failed["state"] == "failed"
    assert "nowhere" in "".join(failed["error"])
    assert "**policies.none-0 failed**" in (out / "tables.md").read_text()
    code, told, _ = run("gpu_suite.py", *flags)
    assert code == 1
    assert told.splitlines()[0] == "0 of 1 tasks are to be run."
    code, told, err = run("gpu_suite.py", *flags, "--retry")
    assert code == 0, told + err
    assert done(out)["policies.none-0"]["state"] == "done"


def done(out: Path) -> dict[str, Any]:
    file = out / "results.json"
    return dict(json.loads(file.read_text())["tasks"]) if file.is_file() else {}
