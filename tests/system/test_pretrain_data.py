"""`umbel pretrain` on data that is remote, mixed, partly unreadable, or read by a worker that dies."""

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

from umbel.data import unreadable

RECIPE = """
format: 1
command: pretrain
backbone: {name: vit_tiny_patch16_224, width: 32, depth: 1, heads: 2, patch: 8}
head: {hidden: 32, width: 16}
views: {global_size: 16, local_size: 8, local_views: 1, policy: none}
masks: {smallest_block: 1}
optim: {warmup_epochs: 0.5}
reader: {canvas: 64, window: 2, workers: 1}
train: {batch: 4, epochs: 2.0, precision: float32, log_every: 1}
"""


@pytest.fixture
def pretrain(tmp_path: Path, umbel: Callable[..., Any]) -> Callable[..., Any]:
    """Pretrain on DATA into tmp_path/run, in this process."""
    (tmp_path / "tiny.yaml").write_text(RECIPE)

    def run(data: object, *more: object) -> Any:
        out = ("--out", tmp_path / "run", "--recipe", tmp_path / "tiny.yaml", "--device", "cpu")
        return umbel("pretrain", data, *out, *more)

    return run


def steps(tmp_path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]


def test_shards_behind_a_url(pretrain: Callable[..., Any], foreign_shards: Any, server: Any, tmp_path: Path) -> None:
    foreign_shards(shards=3, count=4)
    code, out, err = pretrain(f"{server.url}/foreign/train-{{000000..000002}}.tar")
    assert code == 0, err
    assert "12 photographs are few" in out
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert max(server.asked[f"train-00000{n}.tar"] for n in range(3)) == 1


def test_a_cache_that_cannot_hold_two_windows_is_refused(
    pretrain: Callable[..., Any], foreign_shards: Any, server: Any
) -> None:
    foreign_shards(shards=6, count=4)
    url = f"{server.url}/foreign/train-{{000000..000005}}.tar"
    code, _, err = pretrain(url, "--reader.cache-gib", 5e-5)
    assert code == 2
    assert "raise --reader.cache-gib, or lower --reader.window" in err


def test_a_pipe_that_is_allowed_by_name(pretrain: Callable[..., Any], foreign_shards: Any) -> None:
    url = f"pipe:cat {foreign_shards(shards=1, count=8)}/train-000000.tar"
    assert pretrain(url).code == 2
    assert pretrain(url, "--reader.allow-pipe").code == 0


def test_a_shard_that_cannot_be_fetched_ends_training_or_is_skipped_and_counted(
    pretrain: Callable[..., Any], made_shards: Any, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreadable, "PAUSES", (0.01,))
    (made_shards() / "train-000001.tar").unlink()
    code, _, err = pretrain(f"{server.url}/shards", "--train.batch", 2)
    assert code == 2
    assert "train-000001.tar cannot be read (its server answers with an error" in err
    skip = ("--train.batch", 2, "--reader.unreadable-shards", "skip")
    code, _, err = pretrain(f"{server.url}/shards", *skip)
    assert code == 2
    assert "of 6 photographs are damaged, more than --reader.max-bad 0.01 allows" in err
    (tmp_path / "run").rename(tmp_path / "refused")
    code, _, err = pretrain(f"{server.url}/shards", *skip, "--reader.max-bad", 0.5)
    assert code == 0, err
    named = [json.loads(line) for line in (tmp_path / "run" / "bad_photographs.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in named}) == len(named) == 3
    assert all("train-000001.tar cannot be read" in row["reason"] for row in named)


def test_a_server_that_stands_still_ends_training_by_the_timeout_and_names_the_shard(
    pretrain: Callable[..., Any], made_shards: Any, server: Any
) -> None:
    made_shards()
    for number in range(2):
        server.trouble[f"train-00000{number}.tar"] = ["stall"] * 9
    code, _, err = pretrain(f"{server.url}/shards", "--train.batch", 2, "--reader.timeout", 1)
    assert code == 3, err
    assert "gave no sign of life for 1 s while reading shard http" in err


def test_mixed_sets_with_an_epoch_of_stated_length(
    pretrain: Callable[..., Any], foreign_shards: Any, photographs: Any, tmp_path: Path
) -> None:
    data, other = foreign_shards(shards=2, count=4), photographs([f"rosa/{n}.jpg" for n in range(5)])
    mix = ("--mix.weights", 0.5, "--mix.epoch", 8)
    code, out, err = pretrain(data, "--mix.data", other, *mix)
    assert code == 0, err
    assert "13 photographs are few" in out
    assert "an epoch is 8 photographs: 66.7% of" in out
    assert steps(tmp_path) == [1, 2, 3, 4]
    moved = other.rename(other.with_name("moved"))
    code, _, err = pretrain(data, "--mix.data", moved, *mix)
    assert code == 0, err
    code, _, err = pretrain(data, "--mix.data", moved, "--mix.weights", 0.25, "--mix.epoch", 8)
    assert code == 2
    assert "mix.weights" in err


def test_a_killed_data_worker_ends_training_with_code_3_and_the_same_command_continues(
    foreign_shards: Any, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "umbel", "pretrain", foreign_shards(shards=2, count=10), "--device", "cpu"]
    command += ["--out", tmp_path / "run", "--recipe", tmp_path / "tiny.yaml", "--train.save-every", "5"]
    command += ["--train.epochs", "100"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not list(tmp_path.glob("run/checkpoints/step-*")):
        time.sleep(0.02)
    worker = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1])
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 3, err
    sentence = err.splitlines()[-1]
    assert sentence.startswith("umbel: data worker 0 was ended by SIGKILL")
    assert "foreign/train-00000" in sentence
    assert "the same command goes on from what is saved" in sentence
    again = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert again.returncode == 0, again.stderr
    assert "continuing from" in again.stdout


def test_unfinished_shards_of_photographs_that_changed_are_left_alone(
    pretrain: Callable[..., Any], photographs: Any, tmp_path: Path
) -> None:
    source = photographs([f"rosa/{n}.jpg" for n in range(5)] + ["rosa/bad.jpg"])
    (source / "rosa" / "bad.jpg").write_bytes(b"no photograph")
    assert pretrain(source).code == 2
    shards = tmp_path / "run" / "shards"
    journal = (shards / ".journal.json").read_bytes()
    (source / "rosa" / "bad.jpg").unlink()
    code, _, err = pretrain(source)
    assert code == 2
    assert f"{shards} holds unfinished shards that were begun from another source" in err
    assert "delete the folder" in err
    assert (shards / ".journal.json").read_bytes() == journal
    shutil.rmtree(shards)
    assert pretrain(source).code == 0


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_among_the_photographs_is_refused(
    mixed: bool, umbel: Callable[..., Any], photographs: Any, foreign_shards: Any, tmp_path: Path
) -> None:
    source = photographs([f"rosa/{n}.jpg" for n in range(5)])
    data = (foreign_shards(shards=2, count=4), "--mix.data", source, "--mix.weights", 0.5) if mixed else (source,)
    before = sorted(source.rglob("*"))
    for more in ((), ("--force",)):
        for out in (source / "rosa", source / "run"):
            code, _, err = umbel("pretrain", *data, "--out", out, "--device", "cpu", *more)
            assert code == 2
            assert "of which all photographs are read" in err
            assert sorted(source.rglob("*")) == before


def test_force_does_not_move_what_is_mixed_in(
    umbel: Callable[..., Any], photographs: Any, foreign_shards: Any, tmp_path: Path
) -> None:
    source = photographs([f"inside/{n}.jpg" for n in range(5)], "out")
    data = (foreign_shards(shards=2, count=4), "--mix.data", source / "inside", "--mix.weights", 0.5)
    code, _, err = umbel("pretrain", *data, "--out", source, "--device", "cpu", "--force")
    assert code == 2
    assert "would be moved aside" in err
    assert len(list((source / "inside").iterdir())) == 5
