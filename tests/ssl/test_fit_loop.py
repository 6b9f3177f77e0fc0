"""The fitting loop on a tiny network: continued bit for bit, two ranks as one, the best weights kept, bad steps."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard
from umbel.data.balance import ClassBalance
from umbel.data.index import open_shards
from umbel.data.make import MakeFolderConfig, make_folder
from umbel.data.order import Slices
from umbel.data.reader import ReaderConfig
from umbel.data.training import TrainingDataset
from umbel.machine import DeviceChoice
from umbel.rank_watch import RankWatch
from umbel.ranks import meet, new_start, rank_0_first
from umbel.run import Stopped, TrainingError
from umbel.run_folder import RunFolder
from umbel.ssl.fit_config import FIT_NOT_COMPARED, FitOptimConfig, FitTrainConfig, OneViewConfig
from umbel.ssl.fit_loop import fit
from umbel.ssl.learner import Labels, Learner
from umbel.ssl.mix_images import MixImagesConfig, draw_mix, mix_labels
from umbel.ssl.targets import Targets

SMALL = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8, registers=0)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A configuration as commands have it."""

    data: str = ""
    out: Path = Path("run")
    seed: int = 0
    device: DeviceChoice = "cpu"
    force: bool = False
    views: OneViewConfig = field(default_factory=lambda: OneViewConfig(size=16))
    mix: MixImagesConfig = field(default_factory=lambda: MixImagesConfig(mixup=0.4, cutmix=0.4))
    optim: FitOptimConfig = field(default_factory=lambda: FitOptimConfig(learning_rate=0.05, layer_decay=0.8))
    reader: ReaderConfig = field(default_factory=lambda: ReaderConfig(canvas=32, window=2, workers=0))
    train: FitTrainConfig = field(
        default_factory=lambda: FitTrainConfig(
            batch=8, epochs=4, precision="float32", average=0.9, log_every=2, save_every=2
        )
    )


class Tiny(Learner):
    """A ViT with a linear layer; `at` is called with the number of forward passes before each."""

    terms = ("loss", "first_logit")

    def __init__(self, at: Callable[[int], object] = lambda _: None) -> None:
        super().__init__()
        self.backbone, self.head, self.at, self.calls = build(SMALL, 16), nn.Linear(16, 3), at, 0

    def forward(self, images: Tensor, labels: Labels) -> Tensor:
        told, self.calls = self.at(self.calls), self.calls + 1
        logits = self.head(self.backbone(images)) * (float("nan") if told == "nan" else 1.0)
        losses = -(labels.target * logits.log_softmax(1)).sum(1) * labels.weight
        return torch.stack([losses.mean(), logits[:, 0].mean()])

    def write_beside(self, folder: Path, validation: dict[str, Any] | None) -> None:
        (folder / "beside.json").write_text(json.dumps({"row": validation, "bias": self.head.bias.tolist()}))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 photographs of three colors, 20, 10 and 6 of them."""
    folder, generator = tmp_path_factory.mktemp("colors"), np.random.default_rng(0)
    for number in range(36):
        name = "red" if number < 20 else "green" if number < 30 else "blue"
        path = folder / "photographs" / name / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 120, (24, 30, 3), dtype=np.uint8)
        pixels[..., ("red", "green", "blue").index(name)] += 100
        Image.fromarray(pixels).save(path)
    make_folder(MakeFolderConfig(data=folder / "photographs", out=folder / "shards", shard_size=9, workers=1))
    return folder / "shards"


def train(
    config: Config,
    data: Path,
    *,
    at: Callable[[int], object] = lambda _: None,
    validate: Callable[[Any], dict[str, Any]] | None = None,
    power: float | None = None,
) -> Tiny:
    """Run the loop as a command does."""
    state = meet(cpu=True)
    slices = Slices(
        micro_batch=config.train.batch,
        rank=state.process_index,
        world_size=state.num_processes,
        accumulation=config.train.accumulation,
    )
    card = ModelCard(
        architecture=SMALL.name,
        arguments=model_arguments(SMALL, 16),
        image_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        num_features=16,
    )
    run = rank_0_first(
        state, lambda: RunFolder.open(config.out, config, "fit", ignore=FIT_NOT_COMPARED, force=config.force)
    )
    opened = open_shards(str(data))
    label = opened.members["label"].astype(np.int64)
    weight = np.linspace(0.5, 1.5, len(label)).astype(np.float32)
    torch.manual_seed(0)
    learner = Tiny(at)
    with RankWatch(
        run.path, start=new_start(state.device), rank=state.process_index, world_size=state.num_processes, timeout=60
    ) as watch:
        fit(
            config,
            run,
            opened,
            learner,
            card,
            slices,
            watch,
            title="fitting",
            targets=Targets(label=label, classes=3, weight=weight, smoothing=0.1),
            balance=None if power is None else ClassBalance(label, power=power, seed=config.seed),
            validate=validate,
        )
    return learner


def state_of(run: Path, step: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    told = torch.load(run / "checkpoints" / f"step-{step:08d}" / "training.pt", weights_only=True)
    moments = {f"moment {n} {k}": v for n, row in told["optimizer"]["state"].items() for k, v in row.items()}
    best = {f"best {n}": v for n, v in told["best"]["weights"].items()}
    return told["learner"] | {f"average {n}": v for n, v in told["average"].items()} | moments | best


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


def assert_same(run: Path, whole: Path, step: int) -> None:
    found, expected = state_of(run, step), state_of(whole, step)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def scored(learner: Any) -> dict[str, Any]:
    """A score that goes up and down, and hangs on weights alone."""
    assert not learner.training
    return {"score": float(torch.sin(1e4 * learner.head.bias.detach().sum())), "bias": learner.head.bias.tolist()}


def die(step: int) -> Callable[[int], object]:
    def at(calls: int) -> None:
        if calls == step:
            raise KeyboardInterrupt

    return at


def test_a_killed_run_goes_on_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    whole, killed = Config(out=tmp_path / "whole"), Config(out=tmp_path / "killed")
    train(whole, shards, validate=scored, power=0.7)
    for step in (3, 5, 4):  # behind the checkpoints of steps 2, 6 and 10
        with pytest.raises(KeyboardInterrupt):
            train(killed, shards, validate=scored, power=0.7, at=die(step))
    train(killed, shards, validate=scored, power=0.7)
    assert_same(killed.out, whole.out, 16)
    assert lines(killed.out, "validation") == lines(whole.out, "validation")
    for row, other in zip(lines(killed.out, "metrics"), lines(whole.out, "metrics"), strict=True):
        assert {n: row[n] for n in ("step", "loss", "first_logit", "grad_norm")} == {
            n: other[n] for n in ("step", "loss", "first_logit", "grad_norm")
        }


def test_a_kill_between_a_validation_and_its_checkpoint(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = Config(out=tmp_path / "whole"), Config(out=tmp_path / "killed")
    train(whole, shards, validate=scored)

    def dying(self: Tiny, folder: Path, validation: dict[str, Any] | None) -> None:
        if validation is not None:  # the validation of step 4 has its line already
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Tiny, "write_beside", dying)
        with pytest.raises(KeyboardInterrupt):
            train(killed, shards, validate=scored)
    assert [row["step"] for row in lines(killed.out, "validation")] == [4]
    train(killed, shards, validate=scored)
    assert lines(killed.out, "validation") == lines(whole.out, "validation")
    assert_same(killed.out, whole.out, 16)


def test_another_seed_is_another_run(shards: Path, tmp_path: Path) -> None:
    one, other = Config(out=tmp_path / "one"), Config(out=tmp_path / "other", seed=1)
    train(one, shards), train(other, shards)
    assert not torch.equal(state_of(one.out, 16)["head.bias"], state_of(other.out, 16)["head.bias"])


def test_every_step_mixes_by_its_own_draws(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Labels] = []
    forward = Tiny.forward

    def watched(self: Tiny, images: Tensor, labels: Labels) -> Tensor:
        seen.append(labels)
        return forward(self, images, labels)

    monkeypatch.setattr(Tiny, "forward", watched)
    config = Config(out=tmp_path / "run", seed=3, train=replace(Config().train, batch=4, accumulation=2, epochs=1))
    train(config, shards)
    opened = open_shards(str(shards))
    dataset = TrainingDataset(opened, seed=3, canvas=32, window=2)
    label = opened.members["label"].astype(np.int64)
    weight = np.linspace(0.5, 1.5, len(label)).astype(np.float32)
    targets = Targets(label=label, classes=3, weight=weight, smoothing=0.1)
    for micro, found in enumerate(seen):
        step, first = micro // 2, micro % 2 * 4
        drawn = draw_mix(config.mix, seed=3, step=step, rows=range(first, first + 4), side=16)
        expected = mix_labels(targets.of(dataset.__getitems__(range(micro * 4, micro * 4 + 4))), drawn)
        torch.testing.assert_close(found.weight, expected.weight)
        torch.testing.assert_close(found.target, expected.target)
    assert len(seen) == 8


def test_it_learns_and_checkpoints_have_the_averages(shards: Path, tmp_path: Path) -> None:
    config = Config(out=tmp_path / "run", mix=MixImagesConfig())
    learner = train(config, shards)
    losses = [row["loss"] for row in lines(config.out, "metrics")]
    assert losses[-1] < losses[0] - 0.1
    checkpoint = config.out / "checkpoints" / "step-00000016"
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    told = state_of(config.out, 16)
    assert json.loads((checkpoint / "beside.json").read_text())["bias"] == told["average head.bias"].tolist()
    assert not torch.equal(told["average head.bias"], told["head.bias"])
    assert torch.equal(learner.head.bias.detach(), told["head.bias"])
    again = timm.create_model(f"local-dir:{checkpoint / 'backbone'}", pretrained=True)
    assert torch.equal(again.norm.bias.detach(), told["average backbone.norm.bias"])


def test_the_best_weights_are_kept_and_it_stops_in_time(shards: Path, tmp_path: Path) -> None:
    scores = iter([0.1, 0.5, 0.4, 0.5, 0.9])  # the fourth is not better than the second

    def validate(learner: Any) -> dict[str, Any]:
        return {"score": next(scores), "bias": learner.head.bias.tolist()}

    train_config = replace(Config().train, patience=2, epochs=8)
    config = Config(out=tmp_path / "run", train=train_config)
    train(config, shards, validate=validate)
    rows = lines(config.out, "validation")
    assert [row["step"] for row in rows] == [4, 8, 12, 16]
    (checkpoint,) = (config.out / "checkpoints").iterdir()
    assert checkpoint.name == "step-00000016"
    beside = json.loads((checkpoint / "beside.json").read_text())
    assert beside == {"row": rows[1], "bias": rows[1]["bias"]}
    # Started again, it knows that it has stopped.
    before = (config.out / "metrics.jsonl").read_text()
    train(config, shards, validate=validate)
    assert (config.out / "metrics.jsonl").read_text() == before


def test_steps_that_are_not_finite_change_nothing(shards: Path, tmp_path: Path) -> None:
    config = Config(out=tmp_path / "run", train=replace(Config().train, epochs=1, save_every=1, keep_last=9))
    train(config, shards, at=lambda calls: "nan" if calls == 2 else None)
    before, after = state_of(config.out, 2), state_of(config.out, 3)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    (row,) = lines(config.out, "bad_steps")
    assert (row["step"], row["rank"], row["terms"]) == (3, 0, ["loss", "first_logit", "grad_norm"])
    assert len(row["keys"]) == 8
    config = replace(config, out=tmp_path / "other", train=replace(Config().train, epochs=2))
    with pytest.raises(TrainingError, match=r"3 steps in a row were not finite \(step 6"):
        train(config, shards, at=lambda calls: "nan" if calls >= 3 else None)


def test_a_signal_saves(shards: Path, tmp_path: Path) -> None:
    config = Config(out=tmp_path / "run")
    with pytest.raises(Stopped, match="saved at step 2 of 16"):
        train(config, shards, at=lambda calls: signal.raise_signal(signal.SIGUSR2) if calls == 1 else None)
    assert [path.name for path in (config.out / "checkpoints").iterdir()] == ["step-00000002"]


def test_two_ranks_are_one(shards: Path, tmp_path: Path) -> None:
    one = Config(out=tmp_path / "one", train=replace(Config().train, batch=4, accumulation=2))
    train(one, shards, power=0.5, validate=scored)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, str(tmp_path / "two"), str(shards)]
    ranks = [
        subprocess.Popen(words, env=environment | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"}) for rank in range(2)
    ]
    assert [rank.wait(200) for rank in ranks] == [0, 0]
    found, expected = state_of(tmp_path / "two", 16), state_of(one.out, 16)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.startswith("best "):
            torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=1e-3, msg=name)
    for row, other in zip(lines(tmp_path / "two", "metrics"), lines(one.out, "metrics"), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-5)


if __name__ == "__main__":
    train(
        Config(out=Path(sys.argv[1]), train=replace(Config().train, batch=4)),
        Path(sys.argv[2]),
        power=0.5,
        validate=scored,
    )
