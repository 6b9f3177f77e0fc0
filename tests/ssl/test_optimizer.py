"""The optimizer: every parameter's rate and decay by name, AdamW by hand, clipping apart, the teacher's average."""

import copy
import itertools
import math
from collections.abc import Callable
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


def small_network() -> Network:
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
    rows = found(small_network(), OptimConfig())
    assert set(rows) == set(TABLE)
    for name, (multiplier, decays) in rows.items():
        assert multiplier == pytest.approx(MULTIPLIERS[name]), name
        assert decays == TABLE[name][2], name


def test_the_tables_corners_in_numbers() -> None:
    rows = found(small_network(), OptimConfig())
    assert rows["backbone.blocks.2.mlp.fc1.weight"][0] == pytest.approx(0.9)
    assert rows["backbone.blocks.0.mlp.fc1.weight"][0] == pytest.approx(0.729)
    assert rows["backbone.cls_token"][0] == pytest.approx(0.6561)
    assert rows["backbone.patch_embed.proj.weight"][0] == pytest.approx(0.13122)
    assert rows["backbone.norm.weight"][0] == rows["head.mlp.4.weight"][0] == 1


def test_other_multipliers_are_heeded() -> None:
    rows = found(small_network(), OptimConfig(layer_decay=1.0, patch_embed_multiplier=1.0))
    assert {multiplier for multiplier, _ in rows.values()} == {1.0}
    assert len(parameter_groups(small_network(), OptimConfig(layer_decay=1.0, patch_embed_multiplier=1.0))) == 2


def test_groups_are_few() -> None:
    # Two for each rate with and without decay: tokens (decay alone), patch embedding, blocks, the rest.
    assert len(parameter_groups(small_network(), OptimConfig())) == 1 + 2 + 2 * DEPTH + 2


# --- Other networks


def rows_of(kind: str, make_network: Callable[..., Network]) -> dict[str, tuple[float, bool]]:
    return found(make_network(kind), OptimConfig())


def test_a_dinov3s_layers_are_the_vits(make_network: Callable[..., Network]) -> None:
    """Two blocks: what a ViT's table says, under the names that timm's Eva has."""
    rows = rows_of("DINOv3 with gates and biases", make_network)
    expected: dict[str, tuple[int, float, bool]] = {
        "mask_token": (0, 1, True),
        "backbone.cls_token": (0, 1, True),
        "backbone.reg_token": (0, 1, True),
        "backbone.patch_embed.proj.weight": (0, 0.2, True),
        "backbone.patch_embed.proj.bias": (0, 0.2, False),
        "backbone.norm.weight": (3, 1, False),
        "backbone.norm.bias": (3, 1, False),
    }
    for i in range(2):
        linear = ("attn.proj", "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2")
        names = {f"{name}.weight": True for name in ("attn.qkv", *linear)} | {f"{name}.bias": False for name in linear}
        names |= {f"{norm}.{part}": False for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        names |= dict.fromkeys(("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias"), False)
        expected |= {f"backbone.blocks.{i}.{name}": (i + 1, 1, decays) for name, decays in names.items()}
    expected |= {f"head.mlp.{i}.{part}": (3, 1, part == "weight") for i in (0, 2, 4) for part in ("weight", "bias")}
    assert set(rows) == set(expected)
    for name, (layer, factor, decays) in expected.items():
        assert rows[name] == (pytest.approx(0.9 ** (3 - layer) * factor), decays), name


@pytest.mark.parametrize(("kind", "name", "layer", "decays"), [
    ("learned rotation", "backbone.rope.freqs", 0, False),
    ("norm before the blocks", "backbone.norm_pre.weight", 0, False),
    ("pooled before the norm", "backbone.fc_norm.weight", 3, False),
    ("DINOv2", "backbone.pos_embed", 0, True),
    ("DINOv2", "backbone.blocks.1.ls1.gamma", 2, False),
])  # fmt: skip
def test_the_odd_parameters_of_other_vits(
    kind: str, name: str, layer: int, decays: bool, make_network: Callable[..., Network]
) -> None:
    assert rows_of(kind, make_network)[name] == (pytest.approx(0.9 ** (3 - layer)), decays)


def test_a_convnexts_layers_are_its_blocks_in_order(make_network: Callable[..., Network]) -> None:
    """Stages of 1, 1, 2, 1 blocks: l = 0 for the stem, 1 to 5 for the blocks, 6 for the last norm and the head."""
    rows = rows_of("ConvNeXt", make_network)
    expected: dict[str, tuple[int, float, bool]] = {
        "mask_token": (6, 1, True),  # it does not train
        "backbone.stem.0.weight": (0, 0.2, True),
        "backbone.stem.0.bias": (0, 0.2, False),
        "backbone.stem.1.weight": (0, 0.2, False),
        "backbone.stem.1.bias": (0, 0.2, False),
        "backbone.head.norm.weight": (6, 1, False),
        "backbone.head.norm.bias": (6, 1, False),
    }
    for stage, block, layer in ((0, 0, 1), (1, 0, 2), (2, 0, 3), (2, 1, 4), (3, 0, 5)):
        names = {"gamma": False}
        for part in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"):
            names |= {f"{part}.weight": part != "norm", f"{part}.bias": False}
        at = f"backbone.stages.{stage}"
        expected |= {f"{at}.blocks.{block}.{name}": (layer, 1, decays) for name, decays in names.items()}
        if stage and block == 0:
            for name, decays in {"0.weight": False, "0.bias": False, "1.weight": True, "1.bias": False}.items():
                expected[f"{at}.downsample.{name}"] = (layer, 1, decays)
    expected |= {f"head.mlp.{i}.{part}": (6, 1, part == "weight") for i in (0, 2, 4) for part in ("weight", "bias")}
    assert set(rows) == set(expected)
    for name, (layer, factor, decays) in expected.items():
        assert rows[name] == (pytest.approx(0.9 ** (6 - layer) * factor), decays), name


def test_response_norms_of_a_convnext_v2_do_not_decay(make_network: Callable[..., Network]) -> None:
    rows = rows_of("ConvNeXt V2", make_network)
    names = [name for name in rows if ".grn." in name]
    assert len(names) == 2 * 5
    assert not any(rows[name][1] for name in names)


def test_every_parameter_of_every_network_stands_in_one_group(kind: str, make_network: Callable[..., Network]) -> None:
    network = make_network(kind)
    rows = found(network, OptimConfig())
    assert set(rows) == {name for name, _ in network.named_parameters()}
    for name, parameter in network.named_parameters():
        if name.endswith(("bias", "gamma", "gamma_1", "gamma_2")) or ("norm" in name and parameter.ndim == 1):
            assert not rows[name][1], name


def test_the_schedule_reaches_every_group() -> None:
    network = small_network()
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
    network = small_network()
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
    network = small_network()
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
    network = small_network()
    parameters = list(network.head.parameters())
    for p in parameters:
        p.grad = torch.ones_like(p) * 100
    assert float(clip_gradients(parameters, 0.0)) == pytest.approx(norm(parameters))
    assert all(bool((p.grad == 100).all()) for p in parameters)


def test_a_nonfinite_gradient_is_told_and_does_not_raise() -> None:
    network = small_network()
    parameters = list(network.head.parameters())
    for p in parameters:
        p.grad = torch.full_like(p, math.nan)
    assert clip_gradients(parameters, 3.0).isnan()


@pytest.mark.parametrize("momentum", [0.9, 0.996, 1.0, 0.0])
def test_the_teacher_is_a_moving_average_of_all_parameters(momentum: float) -> None:
    student = small_network()
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
    student = small_network().float()
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
