"""Health measures against plain references in float64, and at both ends of their scales."""

import math
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from umbel.backbones.build import BackboneConfig, build
from umbel.ssl.head import HeadConfig
from umbel.ssl.health import (
    MEASURES,
    agreement,
    coding_rate_share,
    effective_rank,
    gradient_norms,
    health,
    mean_cosine,
    parts_of,
)
from umbel.ssl.network import Network

EPS = 0.05


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(drawn(*shape, seed=seed) + 0.5, dim=-1)


def orthonormal(rows: int, width: int) -> Tensor:
    """`rows` orthonormal vectors, or, where the space is too small for them, as many of each of its directions."""
    basis = torch.linalg.qr(drawn(width, width))[0]
    return basis[torch.arange(rows) % width]


# --- Effective rank


def plain_effective_rank(tokens: Tensor) -> float:
    singular = torch.linalg.svdvals(tokens).tolist()
    entropy = 0.0
    for value in singular:
        share = value / sum(singular)
        entropy -= share * math.log(share) if share > 0 else 0.0
    return math.exp(entropy)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_the_effective_rank_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    tokens = drawn(*shape) * torch.arange(1, shape[1] + 1) ** 2
    assert float(effective_rank(tokens)) == pytest.approx(plain_effective_rank(tokens), rel=1e-9)
    # At any scale, and whatever precision the features have.
    assert float(effective_rank(1e-6 * tokens)) == pytest.approx(plain_effective_rank(tokens), rel=1e-6)
    rounded = tokens.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(effective_rank(rounded)) == pytest.approx(plain_effective_rank(rounded.double()), rel=1e-9)


@pytest.mark.parametrize(("rows", "width"), [(4, 10), (10, 10), (30, 10)])
def test_orthogonal_directions_of_one_strength_fill_the_rank(rows: int, width: int) -> None:
    assert float(effective_rank(3 * orthonormal(rows, width))) == pytest.approx(min(rows, width), rel=1e-9)


def test_equal_features_have_rank_one() -> None:
    same = drawn(1, 12).expand(40, 12)
    assert float(effective_rank(same)) == pytest.approx(1, abs=1e-4)
    assert float(effective_rank(same.float())) == pytest.approx(1, abs=1e-4)
    # Longer and shorter, but in one direction.
    assert float(effective_rank(same * torch.arange(1, 41)[:, None])) == pytest.approx(1, abs=1e-4)
    assert float(effective_rank(torch.zeros(5, 7))) == 1


# --- Cosines


def plain_mean_cosine(classes: Tensor) -> float:
    views, batch, _ = classes.shape
    total, count = 0.0, 0
    for u in range(views):
        for v in range(views):
            for a in range(batch):
                for b in range(batch):
                    if a != b:
                        x, y = classes[u, a], classes[v, b]
                        total += float(x @ y / (x.norm() * y.norm()))
                        count += 1
    return total / count


@pytest.mark.parametrize("views", [1, 2, 3])
def test_the_mean_cosine_is_that_of_all_pairs_of_different_photographs(views: int) -> None:
    classes = units(views, 5, 6)
    assert float(mean_cosine(classes)) == pytest.approx(plain_mean_cosine(classes), rel=1e-10)
    assert float(mean_cosine(3 * classes)) == pytest.approx(plain_mean_cosine(classes), rel=1e-10)


def test_the_mean_cosine_of_equal_outputs_is_one_and_of_orthogonal_ones_zero() -> None:
    assert float(mean_cosine(units(1, 1, 8).expand(2, 6, 8))) == pytest.approx(1, abs=1e-12)
    # The views of one photograph are the same: they do not count.
    assert float(mean_cosine(orthonormal(6, 8).expand(2, 6, 8))) == pytest.approx(0, abs=1e-12)
    assert math.isnan(float(mean_cosine(units(2, 1, 8))))


def test_agreement_is_the_cosine_of_the_same_view() -> None:
    student, teacher = units(5, 4, 6), units(2, 4, 6, seed=1)
    pairs = [float(student[v, b] @ teacher[v, b]) for v in range(2) for b in range(4)]
    assert float(agreement(student, teacher)) == pytest.approx(sum(pairs) / len(pairs), rel=1e-10)
    assert float(agreement(teacher, teacher)) == pytest.approx(1, abs=1e-12)
    assert float(agreement(-teacher, teacher)) == pytest.approx(-1, abs=1e-12)


# --- Coding rate


def plain_rate(features: Tensor) -> float:
    m, d = features.shape
    gram = sum(torch.outer(row, row) for row in features)
    return 0.5 * float(torch.log(torch.linalg.det(torch.eye(d, dtype=torch.float64) + d / (m * EPS) * gram)))


@pytest.mark.parametrize(("rows", "width"), [(4, 10), (10, 10), (30, 10)])
def test_the_share_is_of_the_rate_of_the_most_even_features(rows: int, width: int) -> None:
    features, even = units(2, rows, width), orthonormal(rows, width)
    expected = sum(map(plain_rate, features)) / 2 / plain_rate(even)
    assert 0.1 < expected < 0.99
    assert float(coding_rate_share(features, eps=EPS)) == pytest.approx(expected, rel=1e-9)
    assert float(coding_rate_share(even[None], eps=EPS)) == pytest.approx(1, rel=1e-9)
    # Nothing has a greater rate: not even features that were sought for it.
    sought = drawn(1, rows, width, seed=1).requires_grad_()
    optimizer = torch.optim.Adam([sought], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (-coding_rate_share(F.normalize(sought, dim=-1), eps=EPS)).backward()
        optimizer.step()
    assert 0.97 < float(coding_rate_share(F.normalize(sought.detach(), dim=-1), eps=EPS)) <= 1 + 1e-9


def test_equal_features_have_a_small_share() -> None:
    share = float(coding_rate_share(units(1, 1, 10).expand(2, 30, 10), eps=EPS))
    assert share == pytest.approx(math.log(1 + 10 / EPS) / (10 * math.log(1 + 1 / EPS)), rel=1e-9)


# --- All of them


def test_health_has_every_measure_by_its_name_and_no_gradient() -> None:
    tokens, student, teacher = drawn(8, 12).requires_grad_(), units(5, 4, 6).requires_grad_(), units(2, 4, 6, seed=1)
    measured = health(tokens, student, teacher, eps=EPS)
    assert measured.dtype == torch.float64
    assert not measured.requires_grad
    expected = {
        "effective_rank": plain_effective_rank(tokens.detach()),
        "cosine": plain_mean_cosine(teacher),
        "agreement": float((student.detach()[:2] * teacher).sum(-1).mean()),
        "coding_rate_share": sum(map(plain_rate, teacher)) / 2 / plain_rate(orthonormal(4, 6)),
    }
    assert dict(zip(MEASURES, measured.tolist(), strict=True)) == pytest.approx(expected, rel=1e-9)


def test_what_is_not_finite_is_told_and_not_raised() -> None:
    broken = units(2, 4, 6)
    broken[0, 0, 0] = torch.nan
    assert health(torch.full((8, 12), torch.inf), broken, broken, eps=EPS).isnan().all()


def test_no_value_is_asked_for() -> None:
    """Tensors without values: whatever reads one on the host fails."""
    with FakeTensorMode():
        classes = torch.empty(5, 4, 6)
        with pytest.raises(RuntimeError):
            bool(classes.isfinite().all())
        assert health(torch.empty(8, 12), classes, classes[:2], eps=EPS).shape == (4,)
    network = make_network().to("meta")
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter)
    assert gradient_norms(network)[1].shape == (5,)


# --- Gradients


def make_network() -> Network:
    torch.manual_seed(0)
    config = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8)
    return Network(build(config, 32), HeadConfig(hidden=16, width=8), 0.0)


def test_gradient_norms_are_those_of_the_parts() -> None:
    network = make_network()
    masks = torch.zeros(4, 16, dtype=torch.bool)
    masks[0, :3] = True
    classes, patches, _ = network(drawn(4, 3, 32, 32).float(), None, masks, masks.flatten().nonzero().squeeze(1))
    ((classes * drawn(2, 2, 8)).sum() + patches[:, 0].sum()).backward()
    backbone: Any = network.backbone
    parts = {
        "embedding": [
            network.mask_token,
            backbone.cls_token,
            backbone.reg_token,
            backbone.pos_embed,
            *backbone.patch_embed.parameters(),
        ],
        "block 0": [*backbone.blocks[0].parameters()],
        "block 1": [*backbone.blocks[1].parameters()],
        "norm": [*backbone.norm.parameters()],
        "head": [*network.head.parameters()],
    }
    assert sum(map(len, parts.values())) == len(list(network.parameters()))
    names, norms = gradient_norms(network)
    assert names == list(parts)
    assert norms.dtype == torch.float32
    for name, norm in zip(names, norms.tolist(), strict=True):
        squares = sum(float(p.grad.double().square().sum()) for p in parts[name] if p.grad is not None)
        assert norm == pytest.approx(math.sqrt(squares), rel=1e-5), name
        assert norm > 0, name
    # All parts together are the norm that clipping sees.
    whole = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    assert float(norms.norm()) == pytest.approx(float(whole), rel=1e-5)


def test_parameters_without_a_gradient_count_for_nothing() -> None:
    network = make_network()
    assert gradient_norms(network)[0] == []
    assert gradient_norms(network)[1].shape == (0,)
    assert network.backbone.norm.weight.grad is None
    network.backbone.norm.weight.grad = torch.full((32,), 2.0)
    names, norms = gradient_norms(network)
    assert names == ["norm"]
    assert norms.tolist() == pytest.approx([2 * math.sqrt(32)])


@pytest.mark.parametrize(
    ("name", "arguments", "numbered", "embedding", "norm"),
    [
        ("vit_small_patch16_dinov3", {"embed_dim": 24, "num_heads": 2, "depth": 3}, "block 0,block 1,block 2",
         {"cls_token", "reg_token", "patch_embed"}, {"norm"}),
        ("convnext_atto", {"depths": (1, 2, 1, 1), "dims": (8, 8, 8, 8)}, "stage 0,stage 1,stage 2,stage 3",
         {"stem"}, {"head"}),
        ("vit_tiny_patch16_224", {"embed_dim": 24, "num_heads": 2, "depth": 1, "pre_norm": True}, "block 0",
         {"cls_token", "pos_embed", "patch_embed", "norm_pre"}, {"norm"}),
    ],
)  # fmt: skip
def test_every_architecture_falls_into_parts(
    name: str, arguments: dict[str, Any], numbered: str, embedding: set[str], norm: set[str]
) -> None:
    network = nn.Module()
    network.mask_token = nn.Parameter(torch.zeros(3))
    network.backbone = timm.create_model(name, num_classes=0, **arguments)
    network.head = nn.Linear(2, 2)
    names = [name for name, _ in network.named_parameters()]
    parts = parts_of(names)
    assert list(dict.fromkeys(parts)) == ["embedding", *numbered.split(","), "norm", "head"]
    of = {part: {n.split(".")[1] for n, p in zip(names[1:], parts[1:], strict=True) if p == part} for part in parts}
    assert parts[0] == "embedding"
    assert (of["embedding"], of["norm"], of["head"]) == (embedding, norm, {"weight", "bias"})
