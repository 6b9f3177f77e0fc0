"""The learner of a distillation, with ViT and ConvNeXt as student and as teacher: its terms, gradients and parts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from umbel.backbones import Backbone
from umbel.backbones.folder import ModelCard
from umbel.evaluation.exporting.classifier_head import ClassifierHead
from umbel.ssl.distillation.cosine import cosine_distance
from umbel.ssl.distillation.features import as_grid, read_features, shape_of
from umbel.ssl.distillation.grid import resize_grid
from umbel.ssl.distillation.loss_config import WEIGHTS, DistillLossConfig
from umbel.ssl.distillation.student import Student
from umbel.ssl.distillation.teacher import Teacher, frozen, resized
from umbel.ssl.learner import Labels

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NOTHING = dict.fromkeys(WEIGHTS, 0.0)
EVERYTHING = dict.fromkeys(WEIGHTS, 1.0)
CLASSES, BATCH, SIZE = 3, 4, 64
NAMES = ("rosa", "salvia", "viola")


def vit(width: int = 32, **settings: Any) -> Any:
    small = {"patch_size": 16, "embed_dim": width, "depth": 2, "num_heads": 2, "num_classes": 0, "img_size": SIZE}
    return timm.create_model("vit_tiny_patch16_224", **small | settings)


def convnext() -> Any:
    return timm.create_model("convnext_atto", dims=(8, 12, 16, 24), depths=(1, 1, 1, 1), num_classes=0)


NETWORKS: dict[str, Callable[[], Any]] = {"ViT": vit, "ConvNeXt": convnext}


def make(
    student: str = "ViT", teacher: str = "ConvNeXt", *, seed: int = 0, size: int = 96, **weights: Any
) -> tuple[Student, Teacher]:
    """A student and its teacher, which sees images of `size` px."""
    torch.manual_seed(seed)
    network = vit(48, img_size=size) if teacher == "ViT" else convnext()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    taught_by = Teacher(network, size=size, mean=(0.1,) * 3, std=(0.7,) * 3, classifier=nn.Linear(width(network), 3))
    backbone = NETWORKS[student]()
    learner = Student(
        backbone,
        DistillLossConfig(**NOTHING | weights),
        size=SIZE,
        mean=MEAN,
        std=STD,
        shape=shape_of(backbone, "student", SIZE),
        teacher=taught_by,
        teacher_shape=shape_of(network, "teacher", size),
        classes=NAMES,
        photographs=20,
    )
    return learner.double(), taught_by


def width(network: Any) -> int:
    return int(network.num_features)


def batch(seed: int = 0, side: int = SIZE) -> tuple[Tensor, Labels]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(BATCH, 3, side, side, dtype=torch.float64, generator=generator)
    target = torch.rand(BATCH, CLASSES, dtype=torch.float64, generator=generator)
    weight = torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    return images, Labels(target=target / target.sum(1, keepdim=True), weight=weight)


@pytest.mark.parametrize("student", NETWORKS)
@pytest.mark.parametrize("teacher", NETWORKS)
def test_every_parameter_has_a_gradient_and_the_teacher_none(student: str, teacher: str) -> None:
    learner, taught_by = make(student, teacher, **EVERYTHING)
    images, labels = batch()
    learner(*batch(1))  # the queue is empty at first
    terms = learner(images, labels)
    assert learner.terms == ("loss", *WEIGHTS)
    assert terms.isfinite().all()
    assert (terms[1:] > 0).all()
    torch.testing.assert_close(terms[0], terms[1:].sum())
    terms[0].backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.requires_grad, name
    assert all(parameter.grad is None for parameter in taught_by.network.parameters())
    assert not taught_by.network.training
    assert not any("network" in name or name.startswith("_teacher") for name in learner.state_dict())


@pytest.mark.parametrize("student", NETWORKS)
@pytest.mark.parametrize("teacher", NETWORKS)
def test_features_against_a_plain_reference(student: str, teacher: str) -> None:
    """Pooled and patch cosine, with the same view resized and normalized for each."""
    learner, taught_by = make(student, teacher, pooled=1.0, patches=2.0)
    images, labels = batch(side=80)
    terms = learner(images, labels)
    plain = images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    for_teacher = (nn.functional.interpolate(plain, (96, 96), mode="bicubic", antialias=True) - 0.1) / 0.7
    for_student = nn.functional.interpolate(images, (64, 64), mode="bicubic", antialias=True)
    with torch.no_grad():
        seen, own = taught_by.network(for_teacher), learner.backbone(for_student)
        maps = [
            net.forward_features(x) for net, x in ((taught_by.network, for_teacher), (learner.backbone, for_student))
        ]
    seen_grid, own_grid = (
        found[:, 1:].unflatten(1, (-1, int((found.shape[1] - 1) ** 0.5))) if found.ndim == 3 else found.movedim(1, -1)
        for found in maps
    )
    pooled = (seen - seen.mean(0)) / (seen.var(0, unbiased=False) + 1e-5).sqrt()
    places = seen_grid.flatten(0, 2)
    patches = (seen_grid - places.mean(0)) / (places.var(0, unbiased=False) + 1e-5).sqrt()
    parts: Any = learner.parts
    expected = cosine_distance(parts["pooled"](own), pooled)
    torch.testing.assert_close(terms[1], expected.detach(), rtol=1e-5, atol=1e-6)
    resized_grid = resize_grid(own_grid, (seen_grid.shape[1], seen_grid.shape[2]))
    expected = cosine_distance(parts["patches"](resized_grid), patches)
    torch.testing.assert_close(terms[2], expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms[0], terms[1] + 2 * terms[2])


def test_parts_that_no_loss_asks_for_are_not_there() -> None:
    def parts(**weights: float) -> set[str]:
        learner, _ = make(**weights)
        names = {name.split(".")[1] for name in learner.state_dict() if name.startswith("parts.")}
        return names | ({"classifier"} if learner.classifier is not None else set())

    assert parts(pooled=1.0) == {"pooled", "pooled_statistics"}
    assert parts(pooled=1.0, patches=1.0) == {"pooled", "pooled_statistics", "patches", "patch_statistics"}
    assert parts(relational=1.0) == {"pooled", "pooled_statistics", "queue"}
    assert parts(logits=0.9, labels=0.1) == {"classifier"}
    assert parts(labels=1.0) == {"classifier"}


@pytest.mark.parametrize("weights", [EVERYTHING | {"teach": False}, {"labels": 1.0}], ids=["--loss.no-teach", "alone"])
def test_the_baseline_learns_from_labels_alone(weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    learner, _ = make(**weights)
    monkeypatch.setattr(Teacher, "see", lambda *_, **__: pytest.fail("the teacher ran"))
    images, labels = batch()
    terms = learner(images, labels)
    assert learner.terms == ("loss", "labels")
    assert learner.teacher is None
    assert labels.target is not None
    assert learner.classifier is not None
    rows = learner.classifier(learner.backbone(images)).log_softmax(1)
    each = [-sum(t * v for t, v in zip(a, b, strict=True)) for a, b in zip(labels.target, rows, strict=True)]
    expected = (1.0 * each[0] + 0.5 * each[1] + 2.0 * each[2]) / BATCH
    torch.testing.assert_close(terms[0], torch.as_tensor(expected))


def test_the_teacher_goes_where_the_student_goes() -> None:
    learner, taught_by = make(pooled=1.0)
    learner.to(torch.float32)
    assert {p.dtype for p in taught_by.network.parameters()} == {torch.float32}
    assert taught_by.mean.dtype == torch.float32


def test_a_stored_classifier_teaches_at_its_temperature() -> None:
    generator = np.random.default_rng(0)
    weight, bias = (generator.normal(size=size).astype(np.float32) for size in ((3, 24), 3))
    head = ClassifierHead(weight=weight, bias=bias, classes=NAMES, temperature=0.5, threshold=0.0)
    network = convnext().eval()
    card = ModelCard(
        architecture="convnext_atto", arguments={}, image_size=64, mean=(0.0,) * 3, std=(1.0,) * 3, num_features=24
    )
    backbone = Backbone(model=network, transform=lambda image: image, dim=24, patch=None, source="", card=card)
    image = torch.rand(2, 3, 64, 64)
    seen = frozen(backbone, head).see(image, grid=False)
    with torch.no_grad():
        expected = 2 * (network(image) @ torch.from_numpy(weight).T + torch.from_numpy(bias))
    assert seen.logits is not None
    torch.testing.assert_close(seen.logits, expected)
    assert frozen(backbone, None).see(image, grid=False).logits is None


def test_evaluation_leaves_statistics_and_queue_alone() -> None:
    learner, _ = make(**EVERYTHING)
    learner(*batch())
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    learner.eval()(*batch(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())


def test_what_cannot_be_asked_for() -> None:
    for wrong, words in (
        ({"pooled": 0.0}, "loss.patches alone"),
        (NOTHING, "must be above 0"),
        ({"logits": -1.0}, "loss.logits must be a number from 0, not -1.0"),
        ({"labels": float("nan")}, "loss.labels must be a number"),
        ({"temperature": 0.0}, "loss.temperature must be positive, not 0"),
        ({"temperature": float("inf")}, "loss.temperature must be positive, not inf"),
        ({"relational_temperature": float("nan")}, "loss.relational_temperature must be positive"),
        ({"queue": 0}, "loss.queue must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            DistillLossConfig(**wrong)
    assert DistillLossConfig().active == {"pooled": 1.0, "patches": 1.0}
    assert not dataclasses.replace(DistillLossConfig(), teach=False).uses_teacher
    assert dataclasses.replace(DistillLossConfig(), teach=False).classifies
    assert DistillLossConfig(dist=1.0).needs_logits
    assert DistillLossConfig(logits=0.9, labels=0.1, teach=False).active == {"labels": 1.0}


def test_grids_of_all_kinds() -> None:
    image = torch.randn(1, 3, 64, 64)
    found = read_features(timm.create_model("vit_small_patch16_dinov3", img_size=64, num_classes=0), image, grid=True)
    assert found.grid is not None
    assert found.grid.shape == (1, 4, 4, 384)
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, num_classes=0).eval()
    grid = as_grid(swin, swin.forward_features(image))
    assert grid.shape == (1, 2, 2, 768)
    # Rows are rows: the grid of a map keeps height before width.
    network = vit()
    tokens = torch.arange(17.0).view(1, 17, 1)
    assert as_grid(network, tokens)[0, :, :, 0].tolist() == [[1 + 4 * r + c for c in range(4)] for r in range(4)]
    # A ViT that pools before it norms has the norm of its patches behind the pooling.
    averaging = vit(global_pool="avg")
    nn.init.normal_(averaging.fc_norm.weight)
    tokens = torch.randn(1, 17, 32)
    assert torch.equal(as_grid(averaging, tokens).flatten(1, 2), averaging.fc_norm(tokens)[:, 1:])
    with pytest.raises(ValueError, match="make no square"):
        as_grid(network, torch.zeros(1, 7, 3))


def test_images_of_the_right_size_are_the_same() -> None:
    images = torch.rand(1, 3, 8, 8)
    assert resized(images, 8) is images
    assert resized(images.bfloat16(), 4).dtype == torch.float32
