"""`umbel pretrain --probe.data`: health and few-shot accuracy in the log, and weights as without them, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from umbel.data.make import MakeSyntheticConfig, make_synthetic

RECIPE = """
format: 1
command: pretrain
backbone: {name: vit_tiny_patch16_224, width: 32, depth: 2, heads: 2, patch: 8, registers: 2}
head: {hidden: 64, width: 32}
views: {global_size: 32, local_size: 16, local_views: 2}
optim: {warmup_epochs: 1.0, drop_path: 0.2, clip: 0.2}
reader: {canvas: 64, window: 2}
train: {batch: 8, epochs: 4.0, precision: bf16, log_every: 1, save_every: 4}
"""
STEPS = 24  # 48 photographs, 6 batches an epoch, 4 epochs
PARTS = ["embedding", "block 0", "block 1", "norm", "head"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    (folder / "tiny.yaml").write_text(RECIPE)
    make_synthetic(MakeSyntheticConfig(out=folder / "shards", train=48, test=24, size=48, workers=1))
    return folder


def command(home: Path, run: Path, *flags: object, ranks: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    given = ["pretrain", home / "shards", "--out", run, "--recipe", home / "tiny.yaml", "--device", "cpu", *flags]
    return [sys.executable, *launcher, "-m", "umbel", *map(str, given)]


def train(home: Path, run: Path, *flags: object, ranks: int = 1) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(home, run, *flags, ranks=ranks), capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    file = run / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def state(run: Path) -> dict[str, torch.Tensor]:
    """All weights at the end, the student's and the teacher's."""
    file = run / "checkpoints" / f"step-{STEPS:08d}" / "training.pt"
    told = torch.load(file, map_location="cpu", weights_only=True)
    return {f"{part}.{name}": tensor for part in ("student", "teacher") for name, tensor in told[part].items()}


def assert_equal(a: Path, b: Path) -> None:
    expected = state(a)
    found = state(b)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    for row, other in zip(lines(a, "metrics"), lines(b, "metrics"), strict=True):
        for key in ("step", "loss", "effective_rank", "cosine", "agreement", "coding_rate_share", "grad_norms"):
            assert row[key] == other[key], key


@pytest.fixture(scope="module")
def unprobed(home: Path) -> Path:
    train(home, home / "unprobed")
    return home / "unprobed"


@pytest.fixture(scope="module")
def probed(home: Path) -> Path:
    told = train(home, home / "probed", *("--probe.data", home / "shards", "--probe.shots", 1, "--probe.draws", 4))
    assert "probe: 1-shot accuracy on 72 photographs of 24 classes" in told
    assert "probe every 6 steps: one an epoch" in told
    return home / "probed"


def test_training_is_the_same_with_and_without_a_probe(unprobed: Path, probed: Path) -> None:
    assert lines(unprobed, "probes") == []
    assert_equal(unprobed, probed)


def test_another_probe_is_told_apart_when_a_run_is_continued(home: Path, probed: Path, tmp_path: Path) -> None:
    run = shutil.copytree(probed, tmp_path / "run")
    before = lines(run, "probes")
    flags = ("--probe.shots", 1, "--probe.draws", 4, "--probe.data")
    train(home, run, *flags, home / "shards")
    assert lines(run, "probes") == before
    train(home, run, *flags, home / "shards" / "train-000000.tar")
    assert lines(run, "probes")[:-1] == before
    last = lines(run, "probes")[-1]
    assert (last["step"], last["photographs"]) == (STEPS, 48)
    assert {row["data"] for row in before} != {last["data"]}


def test_the_log_tells_the_health_of_the_run(unprobed: Path) -> None:
    rows = lines(unprobed, "metrics")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert 1 <= row["effective_rank"] <= row["effective_rank_limit"] == 16
        assert -1 <= row["cosine"] <= 1
        assert -1 <= row["agreement"] <= 1
        assert 0 < row["coding_rate_share"] < 1
        assert list(row["grad_norms"]) == PARTS
        # Before clipping, to 0.2.
        backbone = sum(norm**2 for part, norm in row["grad_norms"].items() if part != "head") ** 0.5
        assert backbone == pytest.approx(row["grad_norm_backbone"], rel=1e-4)
        assert row["grad_norms"]["head"] == pytest.approx(row["grad_norm_head"], rel=1e-4)
    assert max(row["grad_norm_backbone"] for row in rows) > 0.4
    # The untrained network sees nearly the same in every photograph.
    assert rows[0]["cosine"] > 0.8


def test_the_teacher_is_probed_before_during_and_after(probed: Path, home: Path, umbel: Callable[..., Any]) -> None:
    rows = lines(probed, "probes")
    assert [row["step"] for row in rows] == [0, 6, 12, 18, 24]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert all(row["shots"] == 1 and row["photographs"] == 72 and 0 <= row["accuracy"] <= 1 for row in rows)
    # What the command says of the last checkpoint.
    out = home / "probe.json"
    flags = ("--shots", 1, "--draws", 4, "--no-baselines", "--device", "cpu", "--workers", 0, "--out", out)
    code, _, err = umbel("probe", probed, "--data", home / "shards", *flags)
    assert code == 0, err
    told = json.loads(out.read_text())["rows"][0]
    assert rows[-1]["accuracy"] == pytest.approx(told["mean"], abs=1e-12)
    assert rows[-1]["interval"] == pytest.approx(told["interval"], abs=1e-12)


@pytest.mark.parametrize("after_step", [pytest.param(0, marks=pytest.mark.slow), 6])
def test_killed_and_continued_equals_undisturbed(after_step: int, home: Path, probed: Path, tmp_path: Path) -> None:
    """After the very first probe, and after one whose step no checkpoint holds; then with the last probe lost."""
    run = tmp_path / "run"
    flags = ("--probe.data", home / "shards", "--probe.shots", 1, "--probe.draws", 4)
    process = subprocess.Popen(
        command(home, run, *flags), env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if any(row["step"] >= after_step for row in lines(run, "probes")):
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=100) == -signal.SIGKILL

    def assert_continued() -> None:
        train(home, run, *flags)
        assert_equal(probed, run)
        for row, whole in zip(lines(run, "probes"), lines(probed, "probes"), strict=True):
            assert row | {"seconds": 0} == whole | {"seconds": 0}

    assert_continued()
    file = run / "probes.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert_continued()


def test_of_two_processes_one_probes(home: Path, unprobed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--probe.data", home / "shards", "--probe.shots", 1, "--probe.draws", 4, "--optim.drop-path", 0)
    train(home, run, *flags, "--train.batch", 4, "--train.epochs", 1, ranks=2)
    assert [row["step"] for row in lines(run, "probes")] == [0, 6]
    last = lines(run, "metrics")[-1]
    assert last["step"] == 6
    assert last["effective_rank_limit"] == 8


def test_what_cannot_be_probed_is_told_before_training(
    home: Path, tmp_path: Path, refused: Callable[..., str], write_tar: Callable[..., Path], jpeg: Callable[..., bytes]
) -> None:
    run, short = tmp_path / "run", ("--device", "cpu", "--train.epochs", 0.2)

    def told(data: Path, *flags: object) -> str:
        given = ("--out", run, "--recipe", home / "tiny.yaml", "--probe.data", data)
        sentence = refused("pretrain", home / "shards", *given, *short, *flags)
        assert not (run / "checkpoints").exists()
        assert lines(run, "metrics") == []
        return sentence

    plain = write_tar(tmp_path / "plain" / "train-000000.tar", {"a.jpg": jpeg(0)}).parent
    assert "plain: the photographs have no labels" in told(plain)
    assert "0 of 24 classes have images enough for 5 shots" in told(home / "shards")
    assert "does not exist" in told(tmp_path / "gone")
    assert "probe.limit must be greater than probe.shots, not 5 for 5" in told(home / "shards", "--probe.limit", 5)
    # The folder is not spoilt: the right data go on with it.
    train(home, run, "--probe.data", home / "shards", "--probe.shots", 1, *short)
    assert [row["step"] for row in lines(run, "probes")] == [0, 1]
