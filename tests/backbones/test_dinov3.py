"""DINOv3's released files: features equal to plain networks in the authors' names, and every misfit refused by name."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from umbel.backbones import load
from umbel.backbones.authors import read_released
from umbel.backbones.import_command import ImportConfig, run
from umbel.run import UserError

State = dict[str, Tensor]
WIDTH, DEPTH, PATCH, HEADS, REGISTERS = 64, 2, 4, 2, 3


def drawer() -> Any:
    generator = torch.Generator().manual_seed(0)
    return lambda *shape, around=0.0: around + 0.2 * torch.randn(*shape, generator=generator)


def vit(*, swiglu: bool = False, bias: bool = True) -> State:
    """Random tensors by DINOv3's names; keys have no bias, by the mask over it."""
    draw = drawer()
    state: State = {
        "cls_token": draw(1, 1, WIDTH),
        "storage_tokens": draw(1, REGISTERS, WIDTH),
        "mask_token": draw(1, WIDTH),
        "patch_embed.proj.weight": draw(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": draw(WIDTH),
        "rope_embed.periods": 100 ** (2 * torch.arange(WIDTH // HEADS // 4) / (WIDTH // HEADS // 2)),
        "norm.weight": draw(WIDTH, around=1),
        "norm.bias": draw(WIDTH),
    }
    hidden = 96 if swiglu else 4 * WIDTH
    for i in range(DEPTH):
        mlp = {"w1": (hidden, WIDTH), "w2": (hidden, WIDTH), "w3": (WIDTH, hidden)}
        if not swiglu:
            mlp = {"fc1": (hidden, WIDTH), "fc2": (WIDTH, hidden)}
        block = {
            **{f"norm{n}.weight": draw(WIDTH, around=1) for n in (1, 2)},
            **{f"norm{n}.bias": draw(WIDTH) for n in (1, 2)},
            **{f"ls{n}.gamma": draw(WIDTH, around=0.5) for n in (1, 2)},
            "attn.qkv.weight": draw(3 * WIDTH, WIDTH),
            "attn.proj.weight": draw(WIDTH, WIDTH),
            "attn.proj.bias": draw(WIDTH),
            **{f"mlp.{n}.weight": draw(*shape) for n, shape in mlp.items()},
            **{f"mlp.{n}.bias": draw(shape[0]) for n, shape in mlp.items()},
        }
        if bias:
            block["attn.qkv.bias"] = draw(3 * WIDTH)
            block["attn.qkv.bias_mask"] = torch.ones(3, WIDTH).index_fill(0, torch.tensor(1), 0).flatten()
        state |= {f"blocks.{i}.{name}": tensor for name, tensor in block.items()}
    return state


def features(state: State, images: Tensor) -> Tensor:
    """The paper's network, step by step, in float64: (B, 3, H, W) -> (B, C), the class token after the norm."""
    state, images = {name: tensor.double() for name, tensor in state.items()}, images.double()

    def norm(x: Tensor, name: str) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.zeros(()))

    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    rows, columns = x.shape[2:]
    # Every patch's center in [-1, 1], down and across, turns pairs of numbers by angles of its own.
    angles = []
    for row in range(rows):
        for column in range(columns):
            place = (2 * (row + 0.5) / rows - 1, 2 * (column + 0.5) / columns - 1)
            half = torch.cat([2 * math.pi * p / state["rope_embed.periods"] for p in place])
            angles.append(torch.cat([half, half]))
    turn = torch.stack(angles)  # (P, D)
    prefix = [state["cls_token"], state["storage_tokens"]]
    first = 1 + REGISTERS
    x = torch.cat([*(token.expand(len(x), -1, -1) for token in prefix), x.flatten(2).transpose(1, 2)], dim=1)

    def turned(y: Tensor) -> Tensor:  # (B, heads, N, D)
        patches = y[:, :, first:]
        low, high = patches.chunk(2, dim=-1)
        moved = patches * turn.cos() + torch.cat([-high, low], dim=-1) * turn.sin()
        return torch.cat([y[:, :, :first], moved], dim=2)

    for i in range(DEPTH):
        block, width = f"blocks.{i}", WIDTH // HEADS
        qkv = norm(x, f"{block}.norm1") @ state[f"{block}.attn.qkv.weight"].T
        if f"{block}.attn.qkv.bias" in state:
            qkv = qkv + state[f"{block}.attn.qkv.bias"] * state[f"{block}.attn.qkv.bias_mask"]
        q, k, v = qkv.reshape(*x.shape[:2], 3, HEADS, width).permute(2, 0, 3, 1, 4)
        attention = (turned(q) @ turned(k).transpose(-2, -1) / width**0.5).softmax(-1)
        y = linear((attention @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + state[f"{block}.ls1.gamma"] * y
        y = norm(x, f"{block}.norm2")
        if f"{block}.mlp.w1.weight" in state:
            gate = linear(y, f"{block}.mlp.w1")
            y = linear(gate / (1 + (-gate).exp()) * linear(y, f"{block}.mlp.w2"), f"{block}.mlp.w3")
        else:
            y = linear(F.gelu(linear(y, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = x + state[f"{block}.ls2.gamma"] * y
    return norm(x, "norm")[:, 0]


DIMS, DEPTHS = (8, 16, 24, 32), (1, 1, 2, 1)


def convnext() -> State:
    """Random tensors by the names of DINOv3's ConvNeXts."""
    draw = drawer()
    state: State = {"norm.weight": draw(DIMS[3], around=1), "norm.bias": draw(DIMS[3])}
    state |= {f"norms.3.{kind}": state[f"norm.{kind}"].clone() for kind in ("weight", "bias")}
    for stage, (width, before) in enumerate(zip(DIMS, (3, *DIMS), strict=False)):
        side, norm, conv, normed = (4, 1, 0, width) if stage == 0 else (2, 0, 1, before)
        state |= {
            f"downsample_layers.{stage}.{conv}.weight": draw(width, before, side, side),
            f"downsample_layers.{stage}.{conv}.bias": draw(width),
            f"downsample_layers.{stage}.{norm}.weight": draw(normed, around=1),
            f"downsample_layers.{stage}.{norm}.bias": draw(normed),
        }
        for i in range(DEPTHS[stage]):
            block = f"stages.{stage}.{i}"
            state |= {
                f"{block}.gamma": draw(width, around=0.5),
                f"{block}.dwconv.weight": draw(width, 1, 7, 7),
                f"{block}.dwconv.bias": draw(width),
                f"{block}.norm.weight": draw(width, around=1),
                f"{block}.norm.bias": draw(width),
                f"{block}.pwconv1.weight": draw(4 * width, width),
                f"{block}.pwconv1.bias": draw(4 * width),
                f"{block}.pwconv2.weight": draw(width, 4 * width),
                f"{block}.pwconv2.bias": draw(width),
            }
    return state


def convnext_features(state: State, images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, C): stages, mean over places, norm; in float64."""
    state, x = {name: tensor.double() for name, tensor in state.items()}, images.double()

    def norm(y: Tensor, name: str) -> Tensor:  # over the last dimension
        return F.layer_norm(y, y.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def norm_map(y: Tensor, name: str) -> Tensor:
        return norm(y.permute(0, 2, 3, 1), name).permute(0, 3, 1, 2)

    for stage in range(4):
        layer = f"downsample_layers.{stage}"
        if stage == 0:
            x = norm_map(F.conv2d(x, state[f"{layer}.0.weight"], state[f"{layer}.0.bias"], stride=4), f"{layer}.1")
        else:
            x = F.conv2d(norm_map(x, f"{layer}.0"), state[f"{layer}.1.weight"], state[f"{layer}.1.bias"], stride=2)
        for i in range(DEPTHS[stage]):
            block = f"stages.{stage}.{i}"
            weight, bias = state[f"{block}.dwconv.weight"], state[f"{block}.dwconv.bias"]
            y = F.conv2d(x, weight, bias, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
            y = norm(y, f"{block}.norm") @ state[f"{block}.pwconv1.weight"].T + state[f"{block}.pwconv1.bias"]
            y = F.gelu(y) @ state[f"{block}.pwconv2.weight"].T + state[f"{block}.pwconv2.bias"]
            x = x + (state[f"{block}.gamma"] * y).permute(0, 3, 1, 2)
    return norm(x.mean((2, 3)), "norm")


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


KINDS = {"mlp": {}, "swiglu": {"swiglu": True}, "without biases": {"bias": False}}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("size", [(16, 16), (12, 20)], ids=str)
def test_the_vits_features_are_the_papers(kind: dict[str, bool], size: tuple[int, int], tmp_path: Path) -> None:
    state = vit(**kind)
    backbone = load(save(tmp_path / "dinov3.pth", state))
    with torch.inference_mode():
        found = backbone.model(images(*size)).double()
    torch.testing.assert_close(found, features(state, images(*size)), rtol=0, atol=2e-5)
    assert (backbone.dim, backbone.patch) == (WIDTH, PATCH)


def test_the_convnexts_features_are_the_papers(tmp_path: Path) -> None:
    state = convnext()
    backbone = load(save(tmp_path / "dinov3.pth", state))
    with torch.inference_mode():
        found = backbone.model(images(64, 96)).double()
    torch.testing.assert_close(found, convnext_features(state, images(64, 96)), rtol=0, atol=2e-5)
    notes = read_released(tmp_path / "dinov3.pth").notes
    assert sum("norms.3" in note for note in notes) == 2


def test_what_is_dropped_and_assumed_is_said(tmp_path: Path) -> None:
    notes = "; ".join(read_released(save(tmp_path / "dinov3.pth", vit())).notes)
    for words in ("dropped mask_token", "rope_embed.periods", "attention heads 2", "ImageNet"):
        assert words in notes
    told = vit() | {f"local_cls_norm.{kind}": torch.ones(WIDTH) for kind in ("weight", "bias")}
    assert "local_cls_norm.weight" in "; ".join(read_released(save(tmp_path / "7b.pth", told)).notes)


def refusal(path: Path, content: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(save(path, content))
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize("name", [n for n in vit() if n not in ("mask_token",) and not n.startswith("blocks.1")])
def test_a_vits_tensor_that_is_missing_renamed_or_of_another_shape_is_named(name: str, tmp_path: Path) -> None:
    state = vit()
    tensor = state.pop(name)
    optional = name == "storage_tokens" or name.endswith("bias_mask")
    if not optional:
        assert name in refusal(tmp_path / "missing.pth", state)
    assert name in refusal(tmp_path / "renamed.pth", state | {f"{name}_": tensor})
    for change in (tensor[..., :-1], tensor[None]):
        assert name in refusal(tmp_path / "shape.pth", state | {name: change.clone()})


@pytest.mark.parametrize("name", [n for n in convnext() if not n.startswith(("stages.1", "stages.3", "norms"))])
def test_a_convnexts_tensor_that_is_missing_renamed_or_of_another_shape_is_named(name: str, tmp_path: Path) -> None:
    state = convnext()
    tensor = state.pop(name)
    if name != "downsample_layers.0.0.weight":  # by which the files are recognized
        assert name in refusal(tmp_path / "missing.pth", state)
        assert name in refusal(tmp_path / "renamed.pth", state | {f"{name}_": tensor})
    assert name in refusal(tmp_path / "shape.pth", state | {name: tensor[..., :-1].clone()})


@pytest.mark.parametrize(("change", "word"), [
    ({"head.weight": torch.ones(3, WIDTH)}, "head.weight"),
    ({"blocks.5.norm1.weight": torch.ones(WIDTH)}, "blocks.5.norm1.weight"),
    ({"rope_embed.periods": 2 * vit()["rope_embed.periods"]}, "rope_embed.periods"),
    ({"blocks.0.attn.qkv.bias_mask": torch.ones(3 * WIDTH)}, "blocks.0.attn.qkv.bias has a bias of keys"),
    ({"norm.weight": torch.ones(WIDTH, dtype=torch.int64)}, "norm.weight"),
    ({"epoch": 3}, "epoch"),
])  # fmt: skip
def test_what_timms_network_cannot_hold_is_named(change: dict[str, Any], word: str, tmp_path: Path) -> None:
    assert word in refusal(tmp_path / "dinov3.pth", vit() | change)


def test_a_second_norm_that_differs_is_no_copy(tmp_path: Path) -> None:
    assert "norms.3.bias" in refusal(tmp_path / "dinov3.pth", convnext() | {"norms.3.bias": torch.ones(DIMS[3])})


def test_heads_that_the_periods_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "dinov3.pth", vit())
    with pytest.raises(UserError, match=re.escape("leave --heads out")):
        read_released(path, heads=4)
    with pytest.raises(UserError, match=re.escape("leave --heads out")):
        read_released(save(tmp_path / "convnext.pth", convnext()), heads=4)
    assert read_released(path, heads=2).card.arguments["num_heads"] == 2


@pytest.mark.parametrize(("kind", "size"), [("vit", (16, 16)), ("convnext", (64, 64))])
def test_they_are_imported_as_folders_that_timm_loads_alone(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    state, plain = (vit(), features) if kind == "vit" else (convnext(), convnext_features)
    source = save(tmp_path / "dinov3.pth", state)
    run(ImportConfig(source=source, folder=tmp_path / "out"))
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.inference_mode():
        found = again(images(*size)).double()
    torch.testing.assert_close(found, plain(state, images(*size)), rtol=0, atol=2e-5)
