"""The optimizer: every parameter's rate and decay by name, AdamW by hand, clipping apart, the teacher's average."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from umbel.backbones.build import BackboneConfig, build
from umbel.ssl.head import HeadConfig
from umbel.ssl.network import Network
from umbel.ssl.optimizer import (
    OptimConfig,
    Schedule,
    build_optimizer,
    clip_gradients,
    parameter_groups,
    step_unless,
    update_teacher,
)

DEPTH = 3


def make_network() -> Network:
    torch.manual_seed(0)
    config = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=DEPTH, heads=2, patch=8)
    return Network(build(config, 16), HeadConfig(hidden=12, width=6), 0.0).double()


# The spec's table for three blocks, parameter by parameter: (layer l, further factor, decays).
TABLE: dict[str, tuple[int, float, bool]] = {
    "mask_token": (0, 1, True),
    "backbone.cls_token": (0, 1, True),
    "backbone.reg_token": (0, 1, True),
    "backbone.pos_embed": (0, 1, True),
    "backbone.patch_embed.proj.weight": (0, 0.2, True),
    "backbone.patch_embed.proj.bias": (0, 0.2, False),
    "backbone.norm.weight": (4, 1, False),
    "backbone.norm.bias": (4, 1, False),
    **{
        f"backbone.blocks.{i}.{name}": (i + 1, 1, decays)
        for i in range(DEPTH)
        for name, decays in {
            "norm1.weight": False, "norm1.bias": False, "norm2.weight": False, "norm2.bias": False,
            "attn.qkv.weight": True, "attn.qkv.bias": False, "attn.proj.weight": True, "attn.proj.bias": False,
            "mlp.fc1.weight": True, "mlp.fc1.bias": False, "mlp.fc2.weight": True, "mlp.fc2.bias": False,
            "ls1.gamma": False, "ls2.gamma": False,
        }.items()
    },
    **{f"head.mlp.{i}.{name}": (4, 1, name == "weight") for i in (0, 2, 4) for name in ("weight", "bias")},
}  # fmt: skip
MULTIPLIERS = {name: 0.9 ** (DEPTH + 1 - layer) * factor for name, (layer, factor, _) in TABLE.items()}


def found(network: Network, config: OptimConfig) -> dict[str, tuple[float, bool]]:
    """name -> (multiplier, decays) as the groups have it; every parameter must stand in exactly one."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    rows: dict[str, tuple[float, bool]] = {}
    for group in parameter_groups(network, config):
        for parameter in group["params"]:  # type: ignore[attr-defined]
            name = names[id(parameter)]
            assert name not in rows
            rows[name] = (group["multiplier"], group["decays"])  # type: ignore[assignment]
    return rows


def test_every_parameter_has_the_rate_and_decay_of_the_table() -> None:
    rows = found(make_network(), OptimConfig())
    assert set(rows) == set(TABLE)
    for name, (multiplier, decays) in rows.items():
        assert multiplier == pytest.approx(MULTIPLIERS[name]), name
        assert decays == TABLE[name][2], name


def test_the_tables_corners_in_numbers() -> None:
    rows = found(make_network(), OptimConfig())
    assert rows["backbone.blocks.2.mlp.fc1.weight"][0] == pytest.approx(0.9)
    assert rows["backbone.blocks.0.mlp.fc1.weight"][0] == pytest.approx(0.729)
    assert rows["backbone.cls_token"][0] == pytest.approx(0.6561)
    assert rows["backbone.patch_embed.proj.weight"][0] == pytest.approx(0.13122)
    assert rows["backbone.norm.weight"][0] == rows["head.mlp.4.weight"][0] == 1


def test_other_multipliers_are_heeded() -> None:
    rows = found(make_network(), OptimConfig(layer_decay=1.0, patch_embed_multiplier=1.0))
    assert {multiplier for multiplier, _ in rows.values()} == {1.0}
    assert len(parameter_groups(make_network(), OptimConfig(layer_decay=1.0, patch_embed_multiplier=1.0))) == 2


def test_groups_are_few() -> None:
    # Two for each rate with and without decay: tokens (decay alone), patch embedding, blocks, the rest.
    assert len(parameter_groups(make_network(), OptimConfig())) == 1 + 2 + 2 * DEPTH + 2


def test_the_schedule_reaches_every_group() -> None:
    network = make_network()
    schedule = Schedule(config=OptimConfig(), global_batch=256, steps_per_epoch=10, total_steps=1000)
    optimizer = build_optimizer(network, OptimConfig())
    schedule.apply(optimizer, 100)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decay = 0.04 + (0.4 - 0.04) * (1 - math.cos(math.pi / 10)) / 2
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == pytest.approx(0.002 * MULTIPLIERS[name]), name
            assert group["weight_decay"] == (pytest.approx(decay) if TABLE[name][2] else 0), name
        assert group["betas"] == (0.9, 0.999)


def some_gradients(network: Network, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in network.named_parameters()}


def test_two_steps_are_those_of_adamw_by_hand() -> None:
    network = make_network()
    values = {name: p.detach().clone() for name, p in network.named_parameters()}
    first = {name: torch.zeros_like(v) for name, v in values.items()}
    second = {name: torch.zeros_like(v) for name, v in values.items()}
    config = OptimConfig(warmup_epochs=0.0)
    schedule = Schedule(config=config, global_batch=512, steps_per_epoch=2, total_steps=8)
    optimizer = build_optimizer(network, config)
    for step in range(2):
        gradients = some_gradients(network, step)
        for name, parameter in network.named_parameters():
            parameter.grad = gradients[name].clone()
        schedule.apply(optimizer, step)
        optimizer.step()
        base = 1e-6 + (0.004 * math.sqrt(0.5) - 1e-6) * (1 + math.cos(math.pi * step / 8)) / 2
        decay = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * step / 8)) / 2
        for name, gradient in gradients.items():
            rate = base * MULTIPLIERS[name]
            if TABLE[name][2]:
                values[name] -= rate * decay * values[name]
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            values[name] -= rate * mean / (square.sqrt() + 1e-8)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), values[name], rtol=1e-10, atol=1e-12, msg=name)


def norm(parameters: list[nn.Parameter]) -> float:
    return math.sqrt(sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None))


@pytest.mark.parametrize(("backbone_scale", "head_scale"), list(itertools.product((0.001, 1.0), repeat=2)))
def test_backbone_and_head_are_clipped_apart(backbone_scale: float, head_scale: float) -> None:
    network = make_network()
    parts: dict[str, Any] = {
        "backbone": ([*network.backbone.parameters(), network.mask_token], backbone_scale),
        "head": (list(network.head.parameters()), head_scale),
    }
    assert sum(len(parameters) for parameters, _ in parts.values()) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        scale = head_scale if name.startswith("head.") else backbone_scale
        parameter.grad = some_gradients(network, 0)[name] * scale
    for parameters, scale in parts.values():
        before = [p.grad.clone() for p in parameters]
        length = norm(parameters)
        assert (length > 3) == (scale == 1.0)
        assert float(clip_gradients(parameters, 3.0)) == pytest.approx(length)
        for p, g in zip(parameters, before, strict=True):
            # torch divides by the norm + 1e-6.
            torch.testing.assert_close(p.grad, g * min(1, 3 / length), rtol=1e-6, atol=1e-9)


def test_no_limit_leaves_gradients_and_still_measures() -> None:
    network = make_network()
    parameters = list(network.head.parameters())
    for p in parameters:
        p.grad = torch.ones_like(p) * 100
    assert float(clip_gradients(parameters, 0.0)) == pytest.approx(norm(parameters))
    assert all(bool((p.grad == 100).all()) for p in parameters)


def test_a_nonfinite_gradient_is_told_and_does_not_raise() -> None:
    network = make_network()
    parameters = list(network.head.parameters())
    for p in parameters:
        p.grad = torch.full_like(p, math.nan)
    assert clip_gradients(parameters, 3.0).isnan()


@pytest.mark.parametrize("momentum", [0.9, 0.996, 1.0, 0.0])
def test_the_teacher_is_a_moving_average_of_all_parameters(momentum: float) -> None:
    student = make_network()
    teacher = copy.deepcopy(student).requires_grad_(False)
    for parameter in student.parameters():
        nn.init.normal_(parameter)
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    unchanged = {name: p.detach().clone() for name, p in student.named_parameters()}
    update_teacher(teacher, student, momentum, torch.zeros(()))
    for (name, t), s in zip(teacher.named_parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(t, momentum * before[name] + (1 - momentum) * s.detach(), msg=name)
        assert torch.equal(s, unchanged[name]), name
    # There is nothing beside parameters that the average would forget.
    assert not list(student.buffers())


@pytest.mark.parametrize("values", [
    {"learning_rate": 0.0}, {"floor": -1.0}, {"clip": -1.0}, {"warmup_epochs": -1.0}, {"drop_path": 1.1},
    {"layer_decay": -0.1}, {"patch_embed_multiplier": 2.0}, {"teacher_momentum": (0.9, 1.1)}, {"betas": (0.9, 1.0)},
])  # fmt: skip
def test_impossible_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="optim"):
        OptimConfig(**values)


def test_a_bad_step_changes_neither_weights_nor_averages_nor_the_count_of_steps() -> None:
    student = make_network().float()
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = build_optimizer(student, OptimConfig())
    Schedule(config=OptimConfig(), global_batch=64, steps_per_epoch=1, total_steps=20).apply(optimizer, 5)

    def step(fill: float, bad: float) -> None:
        for p in student.parameters():
            p.grad = torch.full_like(p, fill)
        step_unless(torch.tensor(bad), optimizer)
        update_teacher(teacher, student, 0.9, torch.tensor(bad))

    step(0.5, 0.0)
    before = copy.deepcopy((student.state_dict(), teacher.state_dict(), optimizer.state_dict()["state"]))
    step(math.nan, 1.0)
    assert_equal_trees((student.state_dict(), teacher.state_dict(), optimizer.state_dict()["state"]), before)
    step(0.5, 0.0)
    assert not torch.equal(student.state_dict()["mask_token"], before[0]["mask_token"])
    assert not torch.equal(teacher.state_dict()["mask_token"], before[1]["mask_token"])
    assert {int(state["step"]) for state in optimizer.state_dict()["state"].values()} == {2}


def assert_equal_trees(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
        return
    assert len(a) == len(b)
    for key in a if isinstance(a, dict) else range(len(a)):
        assert_equal_trees(a[key], b[key])
