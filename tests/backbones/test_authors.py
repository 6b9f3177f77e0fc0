"""Released checkpoints: features equal to a plain ViT in the authors' names, and every misfit refused by name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from umbel.backbones import load
from umbel.backbones.authors import read_released
from umbel.backbones.folder import write_timm_folder
from umbel.image_statistics import IMAGENET_MEAN, IMAGENET_STD, INAT_PLANTAE_MEAN, INAT_PLANTAE_STD
from umbel.run import UserError

State = dict[str, Tensor]
Change = Callable[[State], State]
WIDTH, DEPTH, PATCH, GRID, REGISTERS = 128, 3, 4, 5, 4
SIDE = GRID * PATCH


def weights(*, width: int = WIDTH, registers: int = REGISTERS, swiglu: bool = False) -> State:
    """Random tensors in the authors' names; all of them matter to the features."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, around: float = 0.0) -> Tensor:
        return around + 0.1 * torch.randn(*shape, generator=generator)

    state = {
        "cls_token": draw(1, 1, width),
        "pos_embed": draw(1, 1 + GRID * GRID, width),
        "mask_token": draw(1, width),
        "patch_embed.proj.weight": draw(width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": draw(width),
        "norm.weight": draw(width, around=1),
        "norm.bias": draw(width),
    }
    if registers:
        state["register_tokens"] = draw(1, registers, width)
    for i in range(DEPTH):
        # Two thirds of four times the width for SwiGLU: 344 of 512, to a multiple of 8.
        hidden = 344 if swiglu else 4 * width
        first, second = ("w12", "w3") if swiglu else ("fc1", "fc2")
        rows = 2 * hidden if swiglu else hidden
        block = {
            **{f"{norm}.weight": draw(width, around=1) for norm in ("norm1", "norm2")},
            **{f"{norm}.bias": draw(width) for norm in ("norm1", "norm2")},
            **{f"{scale}.gamma": draw(width, around=0.5) for scale in ("ls1", "ls2")},
            "attn.qkv.weight": draw(3 * width, width),
            "attn.qkv.bias": draw(3 * width),
            "attn.proj.weight": draw(width, width),
            "attn.proj.bias": draw(width),
            f"mlp.{first}.weight": draw(rows, width),
            f"mlp.{first}.bias": draw(rows),
            f"mlp.{second}.weight": draw(width, hidden),
            f"mlp.{second}.bias": draw(width),
        }
        state |= {f"blocks.{i}.{name}": tensor for name, tensor in block.items()}
    return state


def tokens(state: State, images: Tensor, heads: int = WIDTH // 64) -> Tensor:
    """The specification's ViT, step by step: (B, 3, H, W) -> (B, 1 + registers + P, C) after the final norm."""
    state, images = {name: tensor.double() for name, tensor in state.items()}, images.double()
    width = state["norm.bias"].shape[0]

    def norm(x: Tensor, name: str) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        deviation = (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return centered / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    down, across = x.shape[2:]
    positions = state["pos_embed"][:, 1:].reshape(1, GRID, GRID, width).permute(0, 3, 1, 2)
    if (down, across) != (GRID, GRID):
        positions = F.interpolate(positions, (down, across), mode="bicubic", antialias=True)
    x = (x + positions).flatten(2).transpose(1, 2)
    # Class token with a position, registers without one, patches.
    prefix = [state["cls_token"] + state["pos_embed"][:, :1]]
    if "register_tokens" in state:
        prefix.append(state["register_tokens"])
    x = torch.cat([*(token.expand(len(x), -1, -1) for token in prefix), x], dim=1)
    for i in range(DEPTH):
        block = f"blocks.{i}"
        y = norm(x, f"{block}.norm1")
        qkv = linear(y, f"{block}.attn.qkv").reshape(*y.shape[:2], 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) / (width // heads) ** 0.5).softmax(-1)
        y = linear((attention @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + state[f"{block}.ls1.gamma"] * y
        y = norm(x, f"{block}.norm2")
        if f"{block}.mlp.w12.weight" in state:
            gate, value = linear(y, f"{block}.mlp.w12").chunk(2, dim=-1)
            y = linear(gate / (1 + (-gate).exp()) * value, f"{block}.mlp.w3")
        else:
            y = linear(F.gelu(linear(y, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = x + state[f"{block}.ls2.gamma"] * y
    return norm(x, "norm")


def in_chunks(state: State) -> State:
    """Two blocks to a chunk: blocks.<chunk>.<i>., where i counts through."""
    return {re.sub(r"^blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}.", k): v for k, v in state.items()}


def released(state: State) -> dict[str, Any]:
    """A SimDINOv2 file: the teacher's backbone and projection head."""
    head = {f"dino_head.mlp.{n}.{kind}": torch.zeros(8, 8) for n in (0, 2, 4) for kind in ("weight", "bias")}
    return {"teacher": {f"backbone.{name}": tensor for name, tensor in state.items()} | head}


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


LAYOUTS = {
    "SimDINOv2": (released, {}),
    "SimDINOv2, blocks in chunks": (lambda state: released(in_chunks(state)), {}),
    "DINOv2": (lambda state: state, {}),
    "DINOv2 without registers": (lambda state: state, {"registers": 0}),
    "DINOv2 giant (SwiGLU)": (lambda state: state, {"swiglu": True}),
}


@pytest.mark.parametrize(("layout", "settings"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("size", [(SIDE, SIDE), (32, 24)], ids=str)
def test_features_and_tokens_are_the_authors(
    layout: Callable[[State], Any], settings: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    state = weights(**settings)
    backbone = load(save(tmp_path / "released.pth", layout(state)))
    model: Any = backbone.model
    expected = tokens(state, images(*size))
    with torch.inference_mode():
        torch.testing.assert_close(model.forward_features(images(*size)).double(), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(images(*size)).double(), expected[:, 0], rtol=0, atol=1e-5)
    assert (backbone.dim, backbone.patch, backbone.card.image_size) == (WIDTH, PATCH, SIDE)


def test_a_released_file_becomes_a_timm_folder(tmp_path: Path) -> None:
    found = read_released(save(tmp_path / "released.pth", released(weights())))
    write_timm_folder(tmp_path / "timm", found.weights, found.card)
    again = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    with torch.inference_mode():
        expected = tokens(weights(), images(SIDE, SIDE))[:, 0]
        torch.testing.assert_close(again(images(SIDE, SIDE)).double(), expected, rtol=0, atol=1e-5)
    assert load(tmp_path / "timm").card == load(tmp_path / "released.pth").card


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in weights().items()}
    backbone = load(save(tmp_path / "released.pth", half))
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.float32}
    with torch.inference_mode():
        expected = tokens(half, images(SIDE, SIDE))[:, 0]
        torch.testing.assert_close(backbone.model(images(SIDE, SIDE)).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("width", "architecture"), [
    (384, "vit_small_patch16_224"), (768, "vit_base_patch16_224"), (128, "vit_base_patch16_224"),
])  # fmt: skip
def test_the_architecture_is_timms_of_that_width(width: int, architecture: str, tmp_path: Path) -> None:
    found = read_released(save(tmp_path / "released.pth", weights(width=width)))
    assert found.card.architecture == architecture
    assert found.card.arguments | {"embed_dim": width, "depth": DEPTH, "num_heads": width // 64} == found.card.arguments


def test_heads_can_be_told(tmp_path: Path) -> None:
    path = save(tmp_path / "released.pth", weights())
    found = read_released(path, heads=4)
    write_timm_folder(tmp_path / "timm", found.weights, found.card)
    with torch.inference_mode():
        features = load(tmp_path / "timm").model(images(SIDE, SIDE)).double()
    torch.testing.assert_close(features, tokens(weights(), images(SIDE, SIDE), heads=4)[:, 0], rtol=0, atol=1e-5)
    assert not any("heads" in note for note in found.notes)
    odd = save(tmp_path / "odd.pth", weights(width=96))
    with pytest.raises(UserError, match="width 96 is no multiple of 64"):
        read_released(odd)
    assert read_released(odd, heads=3).card.arguments["num_heads"] == 3


@pytest.mark.parametrize(("layout", "mean", "std", "words"), [
    (released, INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, "iNaturalist 2021's plants"),
    (lambda state: state, IMAGENET_MEAN, IMAGENET_STD, "ImageNet's"),
], ids=["SimDINOv2", "DINOv2"])  # fmt: skip
def test_image_statistics_go_by_the_layout_and_are_said(
    layout: Callable[[State], Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = save(tmp_path / "released.pth", layout(weights()))
    backbone = load(path)
    told = capsys.readouterr().out
    assert "mask_token (1): no part of a backbone" in told
    assert "attention heads 2: its width 128 / 64" in told
    assert f"mean {mean} and deviation {std} are assumed" in told
    assert words in told
    assert (backbone.card.mean, backbone.card.std) == (mean, std)
    gray = backbone.transform(Image.new("RGB", (40, 40), (128, 128, 128)))
    expected = [(128 / 255 - m) / s for m, s in zip(mean, std, strict=True)]
    torch.testing.assert_close(gray.mean((1, 2)), torch.tensor(expected), rtol=0, atol=1e-5)
    read = read_released(path, statistics="imagenet")
    assert (read.card.mean, read.card.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert not any("assumed" in note for note in read.notes)


def test_what_is_dropped_is_named(tmp_path: Path) -> None:
    notes = read_released(save(tmp_path / "released.pth", released(weights()))).notes
    assert notes[0] == "dropped dino_head (6), mask_token (1): no part of a backbone"
    without = {name: tensor for name, tensor in weights().items() if name != "mask_token"}
    assert not any("dropped" in note for note in read_released(save(tmp_path / "without.pth", without)).notes)


# --- Refusals

NAMES = [name for name in weights() if name != "mask_token"]


def refusal(path: Path, content: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(save(path, content))
    text = str(caught.value)
    assert "\n" not in text
    assert re.search(r"[^.]\.$", text), text
    assert str(path) in text
    return text


@pytest.mark.parametrize("layout", [released, lambda state: state], ids=["SimDINOv2", "DINOv2"])
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_or_renamed_tensor_is_named(name: str, layout: Callable[[State], Any], tmp_path: Path) -> None:
    state = weights()
    tensor = state.pop(name)
    if name != "register_tokens":  # a ViT may have none
        assert name in refusal(tmp_path / "missing.pth", layout(state))
    text = refusal(tmp_path / "renamed.pth", layout(state | {f"{name}_": tensor}))
    assert f"{name}_" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_of_another_shape_is_named_alone(name: str, tmp_path: Path) -> None:
    state = weights()
    tensor = state[name]
    for change in (tensor[:-1], tensor[..., :-1], tensor[None]):
        text = refusal(tmp_path / "shape.pth", state | {name: change.clone()})
        assert name in text
        assert str(tuple(change.shape)) in text
        others = [other for other in state if other != name and re.search(rf"{re.escape(other)}(?!\w)", text)]
        assert not [other for other in others if other not in name]


@pytest.mark.parametrize(("extra", "word"), [
    ({"blocks.0.attn.q_norm.weight": torch.ones(64)}, "blocks.0.attn.q_norm.weight"),
    ({"head.weight": torch.ones(10, WIDTH)}, "head.weight"),
    ({"blocks.7.norm1.weight": torch.ones(WIDTH)}, "blocks.7.norm1.weight"),
    ({"rope.periods": torch.ones(16)}, "rope.periods"),
    ({"cls_token_": torch.ones(1, dtype=torch.int64)}, "cls_token_"),
    ({"epoch": 100}, "epoch"),
])  # fmt: skip
def test_what_is_left_over_is_named(extra: dict[str, Any], word: str, tmp_path: Path) -> None:
    assert word in refusal(tmp_path / "extra.pth", weights() | extra)
    assert word in refusal(tmp_path / "teacher.pth", released(weights() | extra))


@pytest.mark.parametrize("extra", ["module.norm.weight", "dino_head.prototypes.weight", "pixel_head.mlp.0.weight"])
def test_what_is_neither_backbone_nor_projection_head_is_named(extra: str, tmp_path: Path) -> None:
    content = released(weights())
    content["teacher"][extra] = torch.ones(3)
    assert extra in refusal(tmp_path / "extra.pth", content)


def test_other_networks_beside_the_teacher_are_named(tmp_path: Path) -> None:
    assert "student" in refusal(tmp_path / "both.pth", released(weights()) | {"student": weights()})
    assert load(save(tmp_path / "epoch.pth", released(weights()) | {"epoch": 100, "arch": "vit"})).dim == WIDTH


def test_blocks_that_count_anew_in_each_chunk_are_refused(tmp_path: Path) -> None:
    anew = {re.sub(r"^blocks\.(\d)\.(\d)\.", lambda m: f"blocks.{m[1]}.{int(m[2]) % 2}.", k): v
            for k, v in in_chunks(weights()).items()}  # fmt: skip
    assert "blocks.0.norm1.weight twice" in refusal(tmp_path / "anew.pth", anew)


def test_a_runs_own_checkpoint_is_answered_with_its_folder(tmp_path: Path) -> None:
    content = {"format": 1, "step": 5, "student": weights(), "teacher": weights(), "optimizer": {"state": {}}}
    path = tmp_path / "run" / "checkpoints" / "step-00000005" / "training.pt"
    path.parent.mkdir(parents=True)
    assert f"give the run's folder ({tmp_path / 'run'})" in refusal(path, content)
    assert "give the run's folder (RUN)" in refusal(tmp_path / "moved.pt", content)


class Stranger:
    """Something that no checkpoint of tensors holds."""


@pytest.mark.parametrize("content", [
    {"teacher": {"backbone.norm.weight": torch.ones(8)}, "config": Stranger()},
    [torch.ones(3)],
    {},
    {"teacher": {}},
    {"model": {"norm.weight": torch.ones(8)}},
], ids=["an object", "a list", "nothing", "an empty teacher", "another layout"])  # fmt: skip
def test_other_contents_are_refused(content: Any, tmp_path: Path) -> None:
    refusal(tmp_path / "other.pth", content)


@pytest.mark.parametrize("keep", [0, 5, 1000, -4], ids=lambda n: f"first {n} bytes" if n >= 0 else f"but {-n} bytes")
def test_a_damaged_file_is_refused(keep: int, tmp_path: Path) -> None:
    path = save(tmp_path / "released.pth", released(weights()))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"released\.pth is no backbone that Umbel reads: it is damaged, or holds more"):
        load(path)
