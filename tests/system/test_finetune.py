"""`umbel finetune` as a whole: it learns, goes on where it was killed, and what it learned answers in a bundle."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from umbel.backbones import load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.cli import main
from umbel.data.balance import ClassBalance
from umbel.data.index import open_shards
from umbel.data.make import MakeFolderConfig, make_folder
from umbel.data.training import TrainingDataset
from umbel.evaluation.embed import embed
from umbel.evaluation.exporting.calibration import class_means
from umbel.evaluation.exporting.classifier_head import head_of
from umbel.ssl.classifier import Classifier
from umbel.ssl.finetune_data import divide

CONFIG = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8, registers=0)
SIZE = 32
CLASSES = ("across", "along", "checks")
RECIPE = """
format: 1
command: finetune
views: {area: [0.6, 1.0], policy: none}
mix: {mixup: 0.05, cutmix: 0.05}
labels: {smoothing: 0.02}
optim: {learning_rate: 0.02, layer_decay: 0.9}
reader: {canvas: 64, workers: 0}
train: {batch: 16, epochs: 32.0, precision: float32, average: 0.9, validate_epochs: 4.0, log_every: 7, save_every: 20}
"""
Umbel = Callable[..., Any]


def stripes(kind: str, generator: np.random.Generator) -> Image.Image:
    """Stripes across, along, or both, of two random colors: their mean color tells nothing."""
    rows, columns = np.mgrid[:40, :40]
    width, phase = generator.integers(3, 6), generator.integers(0, 10)
    bands = {"across": rows + phase, "along": columns + phase}
    lit = bands[kind] // width % 2 if kind in bands else ((rows + phase) // width + columns // width) % 2
    colors = generator.integers(0, 256, (2, 3))
    return Image.fromarray((colors[lit] + generator.integers(-9, 9, (40, 40, 3))).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone of random weights, shards of three classes, and a recipe."""
    folder, generator = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    for split, counts in (("train", (60, 40, 20)), ("val", (12, 12, 12)), ("test", (20, 20, 20))):
        for kind, count in zip(CLASSES, counts, strict=True):
            for number in range(count):
                path = folder / "photographs" / split / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                stripes(kind, generator).save(path)
    make_folder(MakeFolderConfig(data=folder / "photographs", out=folder / "shards", workers=1, shard_size=50))
    torch.manual_seed(0)
    card = ModelCard(
        architecture=CONFIG.name,
        arguments=model_arguments(CONFIG, SIZE),
        image_size=SIZE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        num_features=32,
    )
    write_timm_folder(folder / "backbone", build(CONFIG, SIZE).state_dict(), card)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def words(given: Path, out: Path, *flags: object, data: Path | None = None) -> list[str]:
    """The command behind `umbel`."""
    asked = ["finetune", given / "backbone", "--data", data or given / "shards", "--out", out]
    return [*map(str, [*asked, "--recipe", given / "recipe.yaml", "--device", "cpu", *flags])]


@pytest.fixture(scope="module")
def tuned(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from its beginning to its end."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    assert main(words(given, run)) == 0
    return run


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


def test_it_learns_what_class_means_do_not_tell(given: Path, tuned: Path) -> None:
    told = json.loads((tuned / "result.json").read_text())
    assert told["classes"] == list(CLASSES)
    assert told["test"]["photographs"] == 60
    made = embed(load(given / "backbone"), open_shards(str(given / "shards")), device="cpu")
    support, asked = made.of("train"), made.of("test")
    mean, weight, bias = class_means(support.features, support.label, 3)
    unit = asked.features / np.linalg.norm(asked.features, axis=1, keepdims=True) - mean
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    by_means = ((unit @ weight.T + bias).argmax(1) == asked.label).mean()
    found = told["test"]["macro_top1"]
    assert found["value"] > 0.7
    assert found["value"] > by_means + 0.15
    assert found["low"] < found["value"] < found["high"]
    # The best of the validations is what is measured.
    rows = lines(tuned, "validation")
    best = max(rows, key=lambda row: row["score"])
    assert (told["step"], told["temperature"], told["threshold"]) == tuple(
        best[name] for name in ("step", "temperature", "threshold")
    )
    assert told["val"]["macro_top1"]["value"] == pytest.approx(best["score"])
    assert told["val"]["answered"]["value"] >= 0.95


def test_the_run_is_a_backbone_with_a_head(tuned: Path) -> None:
    folder = next((tuned / "checkpoints").glob("step-*")) / "backbone"
    head, backbone = head_of(folder), load(tuned)
    assert head is not None
    assert head.classes == CLASSES
    told = json.loads((tuned / "result.json").read_text())
    assert (head.temperature, head.measured["step"]) == (told["temperature"], told["step"])
    assert head.weight.shape == (3, backbone.dim)


def test_a_killed_run_comes_to_the_same_result(
    given: Path, tuned: Path, tmp_path: Path, umbel: Umbel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Classifier.forward, iter(range(1 << 30))

    def dying(self: Classifier, *arguments: Any) -> Any:
        if next(calls) in (12, 100):
            raise KeyboardInterrupt
        return forward(self, *arguments)

    monkeypatch.setattr(Classifier, "forward", dying)
    run = tmp_path / "run"
    assert [umbel(*words(given, run)).code for _ in range(3)] == [130, 130, 0]
    assert (run / "result.json").read_text() == (tuned / "result.json").read_text()
    assert lines(run, "validation") == lines(tuned, "validation")
    for whole in (tuned / "checkpoints").rglob("*.safetensors"):
        assert (run / whole.relative_to(tuned)).read_bytes() == whole.read_bytes(), whole


@pytest.mark.slow
def test_two_processes_share_a_batch(given: Path, tuned: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "umbel"]
    asked = [*launcher, *words(given, tmp_path / "run", "--train.batch", 8)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found, expected = lines(tmp_path / "run", "metrics"), lines(tuned, "metrics")
    assert len(found) == len(expected)
    for row, other in zip(found[:4], expected, strict=False):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"]["macro_top1"]["value"] > 0.7


def test_a_linear_head_leaves_the_backbone(given: Path, tmp_path: Path, umbel: Umbel) -> None:
    run = tmp_path / "run"
    assert umbel(*words(given, run, "--head", "linear", "--train.epochs", 2)).code == 0
    tuned, first = (load(place).model.state_dict() for place in (run, given / "backbone"))
    assert all(torch.equal(tuned[name], tensor) for name, tensor in first.items())
    rows = lines(run, "metrics")
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_crowds_weights_are_in_the_loss(
    given: Path,
    tmp_path: Path,
    umbel: Umbel,
    write_tar: Callable[..., Path],
) -> None:
    """At first all classes are equally likely: the loss of a step is ln 3 times the mean weight of its photographs."""
    generator, members, folder = np.random.default_rng(1), {}, tmp_path / "voted"
    acc = generator.uniform(0.3, 1, 24)
    for n, kind in enumerate(CLASSES * 8):
        buffer = io.BytesIO()
        stripes(kind, generator).save(buffer, "JPEG")
        members |= {f"{n:02d}.jpg": buffer.getvalue(), f"{n:02d}.cls": f"{n % 3}".encode()}
        members[f"{n:02d}.json"] = json.dumps({"observation": n, "acc": acc[n], "valid": True}).encode()
    write_tar(folder / "train-000000.tar", members)
    write_tar(folder / "val-000000.tar", {name: content for name, content in members.items() if name[:2] < "06"})
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    flags = ("--train.batch", 8, "--train.epochs", 1, "--train.log-every", 1, "--mix.mixup", 0, "--mix.cutmix", 0)
    ended = umbel(*words(given, tmp_path / "run", *flags, "--labels.smoothing", 0, data=folder))
    assert ended.code == 0, ended.err
    assert "photographs count by their acc: it stands in their JSON." in ended.out
    data = divide(open_shards(str(folder)), "", share=0.1, seed=0)
    balance = ClassBalance(data.train.columns, power=0.5, seed=0)
    first = TrainingDataset(data.train.shards, seed=0, canvas=64, window=8, balance=balance).__getitems__(range(8))
    weight = (acc / acc.mean())[first.sample].mean()
    assert abs(weight - 1) > 0.01
    assert lines(tmp_path / "run", "metrics")[0]["loss"] == pytest.approx(np.log(3) * weight, rel=1e-5)
    soft = tmp_path / "soft.csv"
    soft.write_text("observation,label,share\n0,across,0.5\n0,checks,0.5\n")
    ended = umbel(*words(given, tmp_path / "other", *flags, "--labels.soft", soft, data=folder))
    assert "soft labels, joined by observation: 1 of 24 photographs have them." in ended.out


def test_folders_and_what_is_held_out(given: Path, tmp_path: Path, umbel: Umbel) -> None:
    ended = umbel(
        *words(given, tmp_path / "run", "--train.epochs", 1, data=given / "photographs" / "train"),
        *("--labels.balance", 1, "--train.patience", 1, "--views.size", 40),
    )
    assert ended.code == 0, ended.err
    assert "10% of every class, held out of train (12 photographs), takes its place." in ended.out
    assert load(tmp_path / "run").card.image_size == 40


def test_bad_input_is_one_sentence(given: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    def told(*flags: object, data: Path | None = None) -> str:
        return refused(*words(given, tmp_path / "run", *flags, data=data))

    flat = tmp_path / "flat"
    shutil.copytree(given / "photographs" / "test" / "along", flat)
    assert "has no labels: give class folders" in told(data=flat)
    shutil.copytree(flat, tmp_path / "one" / "along")
    assert "training photographs of one class" in told(data=tmp_path / "one")
    (tmp_path / "one" / "rare").mkdir()
    shutil.copyfile(flat / "0.png", tmp_path / "one" / "rare" / "0.png")
    assert "class 'rare' has one photograph" in told(data=tmp_path / "one")
    assert "do not fill one batch of 500" in told("--train.batch", 500)
    assert "--train.batch must be even, not 15" in told("--train.batch", 15)
    assert "gives no features of images of 33 pixels" in told("--views.size", 33)
    assert "no photograph's JSON has it" in told("--labels.weight", "conf")
    assert "mix.mixup and mix.cutmix" in told("--mix.mixup", 0.9)
    assert "does not exist" in told(data=tmp_path / "nowhere")
    assert "is no model of timm's" in refused("finetune", "open_clip:x", "--data", flat, "--out", tmp_path / "run")


def test_another_configuration_is_refused(given: Path, tuned: Path, refused: Callable[..., str], umbel: Umbel) -> None:
    # How many photographs may be damaged decides when it stops, and nothing that it computes.
    assert umbel(*words(given, tuned, "--reader.max-bad", 0.5)).code == 0
    assert "another configuration (optim.clip: 3.0 there, 1.0 now)" in refused(*words(given, tuned, "--optim.clip", 1))
    assert "global batch of 16" in refused(*words(given, tuned, "--train.batch", 8))
    other = given / "other"
    for kind in CLASSES[:2]:
        shutil.copytree(given / "photographs" / "test" / kind, other / "train" / kind)
    assert "was begun on other data" in refused(*words(given, tuned, data=other))
    # Whose run it is is said by the command that finds another's.
    asked = ("distill", given / "backbone", "--student", "convnext_atto", "--data", given / "shards", "--out", tuned)
    said = refused(*map(str, asked), "--views.size", "32", "--device", "cpu")
    assert "is a run that this command cannot continue" in said
    assert "choose another --out, or --force to move it aside" in said


def test_a_report_is_a_sentence_and_jobs_know_it(tuned: Path, umbel: Umbel) -> None:
    ended = umbel("report", tuned)
    assert ended.code == 0
    assert "is a run of `umbel finetune`, of which there is no report yet" in ended.out
    (row,) = json.loads(umbel("jobs", tuned, "--json").out)["jobs"]
    assert (row["state"], row["step"], row["steps"]) == ("ended", 224, 224)


@pytest.fixture(scope="module")
def bundle(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's bundle."""
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("bundle") / "export"
    assert main(["export", str(tuned), "--to", "bundle", "--out", str(out)]) == 0
    return out / "bundle"


def test_a_bundle_answers_as_torch_does(given: Path, tuned: Path, bundle: Path, umbel: Umbel) -> None:
    again = umbel("export", tuned, "--to", "bundle", "--out", bundle.parent)
    assert "is kept" in again.out
    asked = [given / "photographs" / "test" / kind / f"{n}.png" for kind in CLASSES for n in range(3)]
    told = json.loads(umbel("predict", bundle, *asked, "--json").out)
    script = [sys.executable, str(bundle / "predict.py"), *map(str, asked), "--json"]
    assert json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout) == told
    backbone, head = load(tuned), head_of(next((tuned / "checkpoints").glob("step-*")) / "backbone")
    assert head is not None
    for path, row in zip(asked, told, strict=True):
        with torch.inference_mode():
            feature = backbone.model(backbone.transform(Image.open(path))[None]).double()
        logits = (feature @ torch.from_numpy(head.weight).double().T)[0] + torch.from_numpy(head.bias)
        confidence = (logits / head.temperature).softmax(0)
        assert {one["class"]: one["confidence"] for one in row["top"]} == {
            name: pytest.approx(float(value), abs=2e-4) for name, value in zip(CLASSES, confidence, strict=True)
        }
        assert row["confidence"] == pytest.approx(float(confidence.max()), abs=2e-4)
        known = float(confidence.max()) >= head.threshold
        assert row["answer"] == (CLASSES[int(confidence.argmax())] if known else "unknown")
    card = (bundle / "README.md").read_text()
    assert "3 classes by a linear head that was trained on its features" in card
    assert "command: finetune" not in card
    assert str(given) not in card  # no path of this machine


def test_the_script_says_unknown(bundle: Path, tmp_path: Path, umbel: Umbel) -> None:
    bundle = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    told = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(told | {"threshold": 1.1}))
    (bundle / "SHA256SUMS").unlink()
    Image.new("RGB", (40, 40), "gray").save(tmp_path / "gray.png")
    assert ": unknown (confidence " in umbel("predict", bundle, tmp_path / "gray.png").out
    (bundle / "bundle.json").write_text(json.dumps(told | {"format": 3}))
    assert "is a bundle of format 3" in umbel("predict", bundle, tmp_path / "gray.png").err
