"""Adapters: nothing changes at first, only they learn, merged they are the same, and peft reads what is written."""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from umbel.backbones import load
from umbel.backbones.text_tower import OpenClipText
from umbel.evaluation.hashing.lora import Adapted, LoraConfig, check_adaptable, write_adapter
from umbel.run import UserError

peft: Any = pytest.importorskip("peft")
CONFIG = LoraConfig(rank=3, dropout=0.0)


def shaken(adapted: Adapted) -> Adapted:
    """With adapters that change something."""
    generator = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return adapted


@pytest.fixture(params=["vit", "clip"])
def network(request: pytest.FixtureRequest, tiny_vit: Path, make_clip: Callable[..., Path]) -> nn.Module:
    if request.param == "clip":
        pytest.importorskip("open_clip")
        return load(make_clip()).model
    return load(tiny_vit).model


def test_merged_weights_are_the_adapted_network(network: nn.Module, tmp_path: Path) -> None:
    images, before = torch.randn(3, 3, 16, 16), copy.deepcopy(network)
    plain = before(images)
    adapted = Adapted(network, CONFIG, name="x", seed=0)
    assert torch.equal(adapted.network(images), plain)
    expected = shaken(adapted).network(images)
    assert (expected - plain).abs().max() > 0.01
    write_adapter(tmp_path / "adapter", adapted.tensors(), adapted.config)
    merged = adapted.merge()
    torch.testing.assert_close(merged(images), expected, atol=1e-5, rtol=0)
    assert set(merged.state_dict()) == set(before.state_dict())
    again = peft.PeftModel.from_pretrained(before, tmp_path / "adapter").eval()
    torch.testing.assert_close(again(images), expected, atol=1e-5, rtol=0)


def test_only_adapters_learn(network: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapted = shaken(Adapted(network, CONFIG, name="x", seed=0))
    optimizer = torch.optim.AdamW(adapted.network.parameters(), lr=0.1)
    adapted.network(torch.randn(3, 3, 16, 16)).square().sum().backward()
    adapted.check_used()
    optimizer.step()
    ours = {id(parameter) for parameter in adapted.parameters()}
    learned = [p for p in adapted.network.parameters() if p.grad is not None]
    assert {id(parameter) for parameter in learned} == ours
    merged = adapted.merge().state_dict()
    changed = {name for name in before if not torch.allclose(merged[name], before[name], atol=1e-6)}
    assert changed
    assert all(name.endswith(("attn.qkv.weight", "attn.in_proj_weight", "attn.out_proj.weight")) for name in changed)


def test_a_merge_is_the_weight_and_the_product(tiny_vit: Path) -> None:
    network = load(tiny_vit).model
    weight = network.blocks[1].attn.qkv.weight.detach().clone()
    adapted = shaken(Adapted(network, CONFIG, name="x", seed=0))
    found = {name: tensor for name, tensor in adapted.tensors().items() if "blocks.1." in name}
    a, b = (next(tensor for name, tensor in found.items() if f"lora_{part}" in name) for part in "AB")
    assert (a.shape, b.shape) == ((3, 16), (48, 3))
    merged: Any = adapted.merge()
    torch.testing.assert_close(merged.blocks[1].attn.qkv.weight, weight + b @ a)  # alpha is the rank: a factor of 1


def test_dropout_is_of_the_adapters_alone(tiny_vit: Path) -> None:
    images = torch.randn(2, 3, 16, 16)
    adapted = shaken(Adapted(load(tiny_vit).model, LoraConfig(rank=3, dropout=0.5), name="x", seed=0))
    assert not torch.equal(adapted.network(images), adapted.network(images))
    training = [name for name, module in adapted.network.named_modules() if module.training and "dropout" not in name]
    assert training == []
    merged = adapted.merge()
    assert torch.equal(merged(images), merged(images))


def test_the_seed_decides(tiny_vit: Path) -> None:
    first, again, other = (Adapted(load(tiny_vit).model, CONFIG, name="x", seed=seed).tensors() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_text_tower_is_adapted_without_the_image_tower(make_clip: Callable[..., Path]) -> None:
    pytest.importorskip("open_clip")
    tower = OpenClipText(f"local-dir:{make_clip()}")
    adapted = Adapted(tower.network, CONFIG, name="x", seed=0, without=tower.without)
    names = list(adapted.tensors())
    assert len(names) == 2 * 2 * 2  # blocks, in and out, A and B
    assert not any("visual" in name for name in names)
    tower.encode(["a rose"]).sum().backward()
    adapted.check_used()


class GoesRound(nn.Module):
    """Takes its projection's weight, and not the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.qkv.weight)


def test_networks_that_cannot_be_adapted_are_told() -> None:
    with pytest.raises(UserError, match=r"backbone atto has no attention projections for --lora\.rank"):
        Adapted(timm.create_model("convnext_atto"), CONFIG, name="atto", seed=0)
    adapted = Adapted(GoesRound(), CONFIG, name="round", seed=0)
    adapted.network(torch.ones(1, 4)).sum().requires_grad_().backward()
    with pytest.raises(UserError, match="backbone round computes its attention past the layers"):
        adapted.check_used()


def test_it_is_known_before_training_whether_adapters_reach_a_network(tiny_vit: Path) -> None:
    network = load(tiny_vit).model
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    check_adaptable(network, CONFIG, name="x", side=16)
    assert set(before) == set(network.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    # EVA-02 adds its biases to its projection's weight by hand.
    eva = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1, num_classes=0)
    with pytest.raises(UserError, match="backbone eva computes its attention past the layers"):
        check_adaptable(eva, CONFIG, name="eva", side=28)


def test_without_peft_it_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        UserError, match=r"--lora\.rank needs peft, which is not here \(.*\): pip install 'umbel\[lora\]'"
    ):
        Adapted(GoesRound(), CONFIG, name="round", seed=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": -1}, "rank must not be negative, not -1"),
        ({"dropout": 1.0}, r"dropout must be .* not 1\.0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"lora.{words}"):
        LoraConfig(**settings)


def test_nothing_is_pickled(tiny_vit: Path, tmp_path: Path) -> None:
    adapted = Adapted(load(tiny_vit).model, CONFIG, name="x", seed=0)
    write_adapter(tmp_path / "adapter", adapted.tensors(), adapted.config)
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    assert set(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == set(adapted.tensors())
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 3
