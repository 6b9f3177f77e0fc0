"""`umbel pretrain` as a whole, in processes of its own: from photographs to a backbone that timm loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from umbel.backbones import load
from umbel.cli import main as in_process
from umbel.config import read_recipe

STEPS = 32  # 36 photographs, 4 whole batches an epoch, 8 epochs


@pytest.fixture(scope="module")
def recipe(tiny: Any) -> Path:
    found: Path = tiny.recipe
    return found


@pytest.fixture(scope="module")
def photographs(tiny: Any) -> Path:
    found: Path = tiny.photographs
    return found


def command(*arguments: object, ranks: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return [sys.executable, *launcher, "-m", "umbel", *map(str, arguments)]


def umbel(*arguments: object, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments, ranks=ranks), capture_output=True, text=True, env=environment, timeout=300
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{STEPS:08d}" / "backbone" / "model.safetensors")


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def interrupt(arguments: list[object], run: Path, after_step: int, number: signal.Signals) -> int:
    """Start a command, send it a signal once its metrics show `after_step`, and return how it ended."""
    process = subprocess.Popen(
        command(*arguments), env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
        if lines and json.loads(lines[-1])["step"] >= after_step:
            break
        time.sleep(0.005)
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C does: data workers get it too
    process.communicate(timeout=100)
    return process.returncode


def test_a_run_folder_holds_configuration_provenance_metrics_and_checkpoints(undisturbed: Path) -> None:
    assert [row["step"] for row in metrics(undisturbed)] == list(range(2, STEPS + 1, 2))
    assert all(np.isfinite(row["loss"]) for row in metrics(undisturbed))
    resolved = read_recipe(str(undisturbed / "config.yaml"), "pretrain")
    assert resolved["train"]["batch"] == 8
    assert resolved["device"] in ("cpu", "cuda")
    told = json.loads((undisturbed / "run.json").read_text())
    assert told["starts"][0]["from_step"] == 0
    assert "torch" in told["starts"][0]["libraries"]
    kept = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert kept == ["step-00000028", "step-00000032"]


def test_the_teacher_loads_in_timm_alone_with_size_mean_and_std(undisturbed: Path) -> None:
    folder = undisturbed / "checkpoints" / f"step-{STEPS:08d}" / "backbone"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert model.pretrained_cfg["input_size"] == [3, 32, 32]
    assert tuple(model.pretrained_cfg["mean"]) == (0.4293, 0.4597, 0.3280)
    assert tuple(model.pretrained_cfg["std"]) == (0.2216, 0.2151, 0.2211)
    backbone = load(undisturbed)
    image = backbone.transform(Image.new("RGB", (70, 50), "green"))[None]
    assert image.shape == (1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(image), backbone.model(image))
        assert model(image).shape == (1, backbone.dim) == (1, 32)
    assert backbone.patch == 8


def test_the_teacher_is_what_training_averaged_not_the_first_weights(undisturbed: Path) -> None:
    state = torch.load(
        undisturbed / "checkpoints" / f"step-{STEPS:08d}" / "training.pt", map_location="cpu", weights_only=True
    )
    for name, tensor in weights(undisturbed).items():
        torch.testing.assert_close(tensor, state["teacher"][f"backbone.{name}"], rtol=0, atol=0)
    name = "backbone.blocks.0.attn.qkv.weight"
    assert not torch.equal(state["teacher"][name], state["student"][name])


def test_the_same_command_again_changes_nothing(undisturbed: Path, photographs: Path, recipe: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.safetensors")}
    again = umbel("pretrain", photographs, "--out", undisturbed, "--recipe", recipe)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.safetensors")} == before
    assert [row["step"] for row in metrics(undisturbed)] == list(range(2, STEPS + 1, 2))


def test_another_configuration_is_refused_by_the_name_of_the_field(
    undisturbed: Path, photographs: Path, recipe: Path
) -> None:
    other = umbel("pretrain", photographs, "--out", undisturbed, "--recipe", recipe, "--optim.clip", "1.0")
    assert other.returncode == 2
    assert "optim.clip: 3.0 there, 1.0 now" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_batch_that_cannot_be_trained_on_is_refused_and_binds_nothing(
    photographs: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pretrain", str(photographs), "--out", str(tmp_path / "run"), "--recipe", str(recipe)]
    for batch, words in (
        (1, "of photographs beside one another: --train.batch must be at least 2."),
        (37, "36 photographs do not fill one batch of 37: lower --train.batch."),
    ):
        assert in_process([*arguments, "--train.batch", str(batch)]) == 2
        assert words in capsys.readouterr().err
        # The photographs' shards are kept, and no configuration that another batch would differ from.
        assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "shards"}


@pytest.mark.parametrize("after_step", [2, 18])
def test_killed_and_continued_equals_undisturbed_bit_for_bit(
    after_step: int, undisturbed: Path, photographs: Path, recipe: Path, tmp_path: Path
) -> None:
    arguments: list[object] = ["pretrain", photographs, "--out", tmp_path / "run", "--recipe", recipe]
    assert interrupt(arguments, tmp_path / "run", after_step, signal.SIGKILL) == -signal.SIGKILL
    continued = umbel(*arguments)
    assert continued.returncode == 0, continued.stderr
    expected = weights(undisturbed)
    for name, tensor in weights(tmp_path / "run").items():
        assert torch.equal(tensor, expected[name]), name
    assert [row["step"] for row in metrics(tmp_path / "run")] == list(range(2, STEPS + 1, 2))
    for row, whole in zip(metrics(tmp_path / "run"), metrics(undisturbed), strict=True):
        assert row["step"] == whole["step"]
        if row["step"] > after_step + 4:
            assert row["loss"] == whole["loss"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR2, 75)])
def test_a_signal_saves_at_once_and_the_exit_code_says_so(
    number: signal.Signals, code: int, photographs: Path, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments: list[object] = ["pretrain", photographs, "--out", run, "--recipe", recipe, "--train.save-every", 1000]
    assert interrupt(arguments, run, 2, number) == code
    saved = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(saved) == 1
    assert 2 <= int(saved[0].removeprefix("step-")) < STEPS


def test_two_ranks_train_on_the_same_samples_and_masks_as_one(photographs: Path, recipe: Path, tmp_path: Path) -> None:
    flags = ["--recipe", recipe, "--optim.drop-path", "0", "--train.epochs", "2"]
    one = umbel("pretrain", photographs, "--out", tmp_path / "one", *flags)
    assert one.returncode == 0, one.stderr
    two = umbel("pretrain", photographs, "--out", tmp_path / "two", *flags, "--train.batch", 4, ranks=2)
    assert two.returncode == 0, two.stderr
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert a["step"] == b["step"]
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-4)  # float32 sums in another order
        assert a["compression"] == pytest.approx(b["compression"], abs=2e-4)


def test_starting_from_a_backbone_keeps_its_statistics_and_weights(
    undisturbed: Path, photographs: Path, recipe: Path, tmp_path: Path
) -> None:
    done = umbel(
        *("pretrain", photographs, "--out", tmp_path / "run", "--recipe", recipe, "--init", undisturbed),
        *("--train.epochs", "0.25", "--optim.learning-rate", "1e-9", "--optim.teacher-momentum", "1", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert "starting from" in done.stdout
    first = load_file(tmp_path / "run" / "checkpoints" / "step-00000001" / "backbone" / "model.safetensors")
    for name, tensor in weights(undisturbed).items():
        torch.testing.assert_close(first[name], tensor)


def test_bad_photographs_in_shards_are_named_and_too_many_stop_the_run(
    undisturbed: Path, recipe: Path, tmp_path: Path
) -> None:
    shards = undisturbed / "shards"
    damaged = tmp_path / "shards"
    damaged.mkdir()
    content = bytearray((shards / "train-000000.tar").read_bytes())
    start = content.find(b"\xff\xd8\xff")
    content[start : start + 2] = b"no"
    (damaged / "train-000000.tar").write_bytes(content)
    flags = ["--recipe", recipe, "--train.epochs", "1.0"]
    few = umbel("pretrain", damaged, "--out", tmp_path / "few", *flags, "--reader.max-bad", "0.1")
    assert few.returncode == 0, few.stderr
    named = [json.loads(line) for line in (tmp_path / "few" / "bad_photographs.jsonl").read_text().splitlines()]
    assert len(named) == 1
    assert named[0]["reason"] == "it is not a JPEG"
    assert metrics(tmp_path / "few")[-1]["step"] == 4
    many = umbel("pretrain", damaged, "--out", tmp_path / "many", *flags)
    assert many.returncode == 2
    assert "1 of 36 photographs are damaged" in many.stderr
    assert "Traceback" not in many.stderr


def test_export_is_tested_and_loads_with_equal_features(undisturbed: Path, tmp_path: Path) -> None:
    done = umbel("export", undisturbed, "--out", tmp_path / "timm")
    assert done.returncode == 0, done.stderr
    assert "largest difference of features" in done.stdout
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(model(images), load(undisturbed).model(images))
