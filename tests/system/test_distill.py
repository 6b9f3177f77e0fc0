"""`umbel distill` as a whole: continued after a kill bit for bit, on two ranks, its export, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from umbel.backbones import load
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.make import MakeFolderConfig, make_folder
from umbel.evaluation.exporting.classifier_head import ClassifierHead, head_of

NAMES = ("rosa", "salvia", "viola")
TINY_VIT = ("vit_tiny_patch16_224", {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32})
TINY_CONVNEXT = ("convnext_atto", {"dims": [8, 12, 16, 24], "depths": [1, 1, 1, 1]})
VIT = ("--student", "vit_tiny_patch16_224", "--backbone.width", 24, "--backbone.depth", 2, "--backbone.heads", 2)
SETTINGS = (
    *("--device", "cpu", "--views.size", 32, "--reader.canvas", 64, "--reader.workers", 0),
    *("--train.batch", 8, "--train.epochs", 3, "--train.precision", "float32", "--train.log-every", 2),
    *("--optim.learning-rate", 0.01),
)
EVERYTHING = (
    *("--loss.relational", 1, "--loss.logits", 1, "--loss.dist", 1, "--loss.labels", 1),
    *("--mix.mixup", 0.4, "--mix.cutmix", 0.4),
)
KILL_AT = """
import umbel.ssl.distillation.student as of_student
forward, calls = of_student.Student.forward, iter(range(1 << 30))
def forward_or_die(self, images, labels):
    if self.training and next(calls) == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, images, labels)
of_student.Student.forward = forward_or_die
"""


class Place(NamedTuple):
    """Shards, and the two teachers."""

    shards: Path
    vit: Path
    convnext: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder, generator = tmp_path_factory.mktemp("distill"), np.random.default_rng(0)
    for split, count in (("train", 36), ("unlabeled", 12), ("val", 9), ("test", 12)):
        for number in range(count):
            kind = number % 3
            inside = "" if split == "unlabeled" else NAMES[kind]
            path = folder / "photographs" / split / inside / f"{split}-{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 120, (6, 7, 3), dtype=np.uint8)
            pixels[..., kind] += 100
            Image.fromarray(pixels).resize((70, 60)).save(path)
    make_folder(MakeFolderConfig(data=folder / "photographs", out=folder / "shards", shard_size=12, workers=1))
    for kind, (name, arguments) in {"vit": TINY_VIT, "convnext": TINY_CONVNEXT}.items():
        write_teacher(folder / kind, name, arguments)
    return Place(folder / "shards", folder / "vit" / "backbone", folder / "convnext" / "backbone")


def write_teacher(folder: Path, name: str, arguments: dict[str, Any], seed: int = 0) -> None:
    """A checkpoint with a classifier of random weights, as `umbel finetune` leaves it."""
    torch.manual_seed(seed)
    network = timm.create_model(name, num_classes=0, **arguments)
    size = arguments.get("img_size", 64)
    card = ModelCard(
        architecture=name, arguments=arguments, image_size=size, mean=(0.4,) * 3, std=(0.3,) * 3,
        num_features=network.num_features, global_pool="token" if "vit" in name else "avg",
    )  # fmt: skip
    write_timm_folder(folder / "backbone", network.state_dict(), card)
    weight = torch.randn(3, network.num_features).numpy()
    ClassifierHead(
        weight=weight, bias=np.zeros(3, dtype=np.float32), classes=NAMES, temperature=1.0, threshold=0.0
    ).write(folder)


def words(teacher: Path, shards: Path, out: Path, *flags: object) -> list[str]:
    return [str(word) for word in ("distill", teacher, "--data", shards, "--out", out, *SETTINGS, *flags)]


def inject(arguments: list[str], more: str = "") -> str:
    """For the processes of `tiny`: another command than its own."""
    return f"sys.argv = ['umbel', *{arguments!r}]\n{more}"


def state(run: Path, step: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    told = torch.load(run / "checkpoints" / f"step-{step:08d}" / "training.pt", weights_only=True)
    averages = {f"{n}.{key}": value for n, of in told["optimizer"]["state"].items() for key, value in of.items()}
    found: dict[str, Tensor] = told["learner"] | averages
    return found


@pytest.mark.parametrize(
    ("kind", "student"),
    [
        pytest.param("convnext", VIT, id="ViT"),
        pytest.param("vit", ("--student", "test_convnext"), id="ConvNeXt", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_continues_bit_for_bit(
    kind: str, student: tuple[object, ...], place: Place, tiny: Any, tmp_path: Path
) -> None:
    """36 photographs, 4 steps an epoch; the queue of 18 is overwritten, and lies in the checkpoints."""
    teacher: Path = getattr(place, kind)
    flags = (*student, *EVERYTHING, "--train.save-every", 4)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tiny.good(tmp_path, inject=inject(words(teacher, place.shards, whole, *flags)))
    command = words(teacher, place.shards, killed, *flags)
    (ended,) = tiny.run(tmp_path, inject=inject(command, KILL_AT.format(calls=7)))
    assert ended.code == -signal.SIGKILL, ended.err
    assert [path.name for path in (killed / "checkpoints").iterdir()] == ["step-00000004"]
    (done,) = tiny.good(tmp_path, inject=inject(command))
    assert "step 4 of 12" in done.out
    found, expected = state(killed, 12), state(whole, 12)
    assert found.keys() == expected.keys()
    assert {"parts.queue.features", "parts.pooled_statistics.mean", "parts.patch_statistics.variance"} <= set(found)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    rows, all_rows = tiny.lines(killed), tiny.lines(whole)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    for row, other in zip(rows, all_rows, strict=True):
        for name in ("loss", "pooled", "patches", "relational", "logits", "dist", "labels"):
            assert row[name] == other[name], (row["step"], name)
    results = [json.loads((run / "result.json").read_text()) for run in (killed, whole)]
    assert results[0]["splits"] == results[1]["splits"]


@pytest.mark.slow
def test_two_ranks_train_as_one(place: Place, tiny: Any, tmp_path: Path) -> None:
    """Weights, statistics and queue after four steps with the same global batch."""
    flags = (*VIT, *EVERYTHING, "--train.epochs", 1)
    one, two = tmp_path / "one", tmp_path / "two"
    tiny.good(tmp_path, inject=inject(words(place.convnext, place.shards, one, *flags)))
    command = words(place.convnext, place.shards, two, *flags, "--train.batch", 4)
    tiny.good(tmp_path, ranks=2, inject=inject(command))
    found, expected = state(two, 4), state(one, 4)
    for name, tensor in expected.items():
        if not name[0].isdecimal():
            torch.testing.assert_close(found[name], tensor, rtol=2e-3, atol=2e-4, msg=name)
    assert tiny.lines(two)[-1]["loss"] == pytest.approx(tiny.lines(one)[-1]["loss"], rel=1e-3)


def test_what_a_run_leaves_is_a_backbone_without_projectors(
    place: Place, tmp_path: Path, umbel: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    command = words(place.vit, place.shards, run, "--student", "test_convnext", *EVERYTHING)
    ended = umbel(*command)
    assert ended.code == 0, ended.err
    assert "36 photographs of train: a loss needs labels." in ended.out
    assert "minimized: 1 pooled + 1 patches + 1 relational + 1 logits + 1 dist + 1 labels." in ended.out
    folder = run / "checkpoints" / "step-00000012" / "backbone"
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    learned = state(run, 12)
    assert {f"backbone.{name}" for name in network.state_dict()} == {n for n in learned if n.startswith("backbone.")}
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, learned[f"backbone.{name}"]), name
    # A run is a backbone for every command; its classifier lies beside it, calibrated by val.
    assert load(run).card.image_size == 32
    head = head_of(folder)
    assert head is not None
    assert head.classes == NAMES
    assert head.measured["photographs"] == 9
    told = json.loads((run / "result.json").read_text())
    assert told["temperature"] == head.temperature
    assert (told["student"], told["teach"], told["step"]) == ("test_convnext", True, 12)
    assert told["few_shot"] is None or told["few_shot"]["unseen"]
    test = told["splits"]["test"]
    assert test["photographs"] == 12
    assert set(test["student"]) == {"top1", "macro_top1", "calibration_error"}
    images = torch.stack([load(run).transform(image) for image in photographs_of_test(place)])
    with torch.no_grad():
        own = network(images) @ torch.from_numpy(head.weight).T + torch.from_numpy(head.bias)
        seen = load(place.vit)
        theirs = seen.model(torch.stack([seen.transform(image) for image in photographs_of_test(place)]))
    their_head = head_of(place.vit)
    assert their_head is not None
    theirs = theirs @ torch.from_numpy(their_head.weight).T
    truth = torch.tensor([number % 3 for number in range(12)])
    assert test["student"]["top1"]["value"] == pytest.approx((own.argmax(1) == truth).double().mean().item())
    assert test["teacher"]["top1"]["value"] == pytest.approx((theirs.argmax(1) == truth).double().mean().item())
    assert test["agreement"]["value"] == pytest.approx((own.argmax(1) == theirs.argmax(1)).double().mean().item())
    # The same command finds it done; another teacher is refused.
    again = umbel(*command)
    assert again.code == 0, again.err
    assert json.loads((run / "result.json").read_text()) == told
    write_teacher(tmp_path / "other", *TINY_VIT, seed=1)
    other = umbel(*["distill", tmp_path / "other" / "backbone", *command[2:]])
    assert other.code == 2
    assert "was begun with another teacher" in other.err
    # So is the same backbone with another classifier.
    shutil.copytree(place.vit.parent, tmp_path / "same")
    dataclasses.replace(their_head, weight=-their_head.weight).write(tmp_path / "same")
    other = umbel(*["distill", tmp_path / "same" / "backbone", *command[2:]])
    assert other.code == 2
    assert "was begun with another teacher" in other.err
    assert "with another classifier than" in other.err


def photographs_of_test(place: Place) -> list[Image.Image]:
    folder = place.shards.parent / "photographs" / "test"
    return [Image.open(folder / NAMES[number % 3] / f"test-{number}.jpg").convert("RGB") for number in range(12)]


def test_without_labels_all_photographs_teach(place: Place, tmp_path: Path, umbel: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    ended = umbel(*words(place.convnext, place.shards, run, "--student", "test_resnet", "--train.epochs", 1))
    assert ended.code == 0, ended.err
    assert "48 photographs of train and unlabeled: no loss needs labels." in ended.out
    assert "views are cut at 64 px, as the teacher sees them; the student sees them at 32." in ended.out
    checkpoint = run / "checkpoints" / "step-00000006"
    assert head_of(checkpoint / "backbone") is None
    told = json.loads((run / "result.json").read_text())
    assert told["splits"] == {}
    assert told["few_shot"] is None or told["few_shot"]["shots"] == 5


def test_the_baseline_starts_from_weights_and_never_asks_the_teacher(
    place: Place, tmp_path: Path, umbel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from umbel.ssl.distillation.teacher import Teacher

    monkeypatch.setattr(Teacher, "see", lambda *_, **__: pytest.fail("the teacher ran"))
    flags = ("--student", "vit_tiny_patch16_224", "--init", place.vit, "--loss.no-teach", "--train.epochs", 1)
    ended = umbel(*words(place.vit, place.shards, tmp_path / "run", *flags, "--optim.learning-rate", 1e-9))
    assert ended.code == 0, ended.err
    assert "minimized: 1 labels." in ended.out
    assert "36 photographs of train: a loss needs labels." in ended.out
    assert "its mean (0.4, 0.4, 0.4) and deviation (0.3, 0.3, 0.3) are kept." in ended.out
    # At no rate to speak of it is still what it began from.
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            load(tmp_path / "run").model(image), load(place.vit).model(image), rtol=1e-3, atol=1e-3
        )
    assert not json.loads((tmp_path / "run" / "result.json").read_text())["teach"]


def test_labels_on_all_photographs_or_some(place: Place, tmp_path: Path, umbel: Callable[..., Any]) -> None:
    """Photographs without a label learn from the teacher alone."""
    flags = (*VIT, "--loss.pooled", 0, "--loss.patches", 0, "--loss.logits", 0.9, "--loss.labels", 0.1)
    ended = umbel(
        *words(place.vit, place.shards, tmp_path / "run", *flags, "--photographs", "all", "--train.epochs", 1)
    )
    assert ended.code == 0, ended.err
    assert "48 photographs of train and unlabeled: as asked." in ended.out
    assert "12 of 48 photographs have no label: the teacher alone teaches them." in ended.out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((), "say which model to train: --student NAME"),
        (("--student", "convnext_ato"), "--student 'convnext_ato' is not a timm model, did you mean 'convnext_atto'?"),
        (("--student", "convnext_atto", "--backbone.width", 64), "is a ConvNeXt of fixed shape"),
        (("--student", "test_resnet", "--backbone.depth", 2), "is neither a ViT nor a ConvNeXt and has a fixed shape"),
        ((*VIT, "--views.size", 40, "--backbone.patch", 16), "views.size 40 is not a multiple of the backbone's patch"),
        ((*VIT, "--train.patience", 2), "train.patience is for umbel finetune"),
        ((*VIT, "--train.validate-epochs", 2), "train.validate_epochs is for umbel finetune"),
        ((*VIT, "--loss.pooled", 0), "loss.patches alone leaves the pooled feature untrained"),
        ((*VIT, "--loss.pooled", -1), "loss.pooled must be a number from 0, not -1.0"),
        ((*VIT, "--init", "VIT"), "is a vit_tiny_patch16_224 and not a"),
        ((*VIT, "--init", "SAME"), "has a shape of its own: leave the --backbone settings out"),
        ((*VIT, "--train.batch", 5, "--mix.mixup", 0.5), "--train.batch must be even, not 5"),
        ((*VIT, "--train.batch", 500), "do not fill one batch of 500"),
        ((*VIT, "--labels.balance", 0.5), "labels.balance needs a label on every photograph"),
        ((*VIT, "--recipe", "distill/smal-cpu"), "did you mean 'distill/small-cpu'?"),
    ],
)
def test_what_is_refused(
    flags: tuple[object, ...], sentence: str, place: Place, tmp_path: Path, refused: Callable[..., str]
) -> None:
    given = [place.vit if flag in ("VIT", "SAME") else flag for flag in flags]
    if "VIT" in flags:
        given[given.index("vit_tiny_patch16_224")] = "vit_small_patch16_224"
    assert sentence in refused(*words(place.vit, place.shards, tmp_path / "run", *given))
    # A mended command is not refused for it, nor is another teacher.
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert not (tmp_path / "run" / "teacher.json").exists()


def test_losses_that_the_teacher_or_the_data_cannot_serve(
    place: Place, tmp_path: Path, refused: Callable[..., str], photographs: Callable[..., Path]
) -> None:
    out = tmp_path / "run"
    bare = tmp_path / "bare"
    shutil.copytree(place.vit, bare)
    said = refused(*words(bare, place.shards, out, *VIT, "--loss.logits", 1, "--loss.dist", 1))
    assert "has no classifier, which loss.logits and loss.dist needs: give a run of umbel finetune" in said
    flat = photographs([f"{number}.jpg" for number in range(10)], "flat")
    said = refused(*words(place.vit, flat, out, *VIT, "--loss.no-teach"))
    assert "has labels of 0 classes in the split train, and loss.labels needs two or more" in said
    others = photographs([f"{name}/{number}.jpg" for name in ("rosa", "bellis") for number in range(6)], "others")
    said = refused(*words(place.vit, others, tmp_path / "other run", *VIT, "--loss.logits", 1, "--loss.labels", 1))
    assert "does not know 1 of the classes" in said
    assert "(the first: bellis)" in said
    assert "does not exist" in refused(*words(place.vit, tmp_path / "nowhere", out, *VIT))
