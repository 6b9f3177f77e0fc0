"""The backbone that training starts from, and its folder: timm alone loads it with the features that were trained."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from umbel.augment.views import ViewsConfig
from umbel.backbones.build import BackboneConfig
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.backbones.loading import load
from umbel.run import UserError
from umbel.ssl.head import HeadConfig
from umbel.ssl.masking import MaskConfig
from umbel.ssl.network import Network
from umbel.ssl.pretrain import first_backbone
from umbel.ssl.pretrain_config import LossConfig, PretrainConfig

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
IMAGE_LOSS_ALONE: dict[str, Any] = {"masks": MaskConfig(views=0.0), "loss": LossConfig(patch_weight=0.0)}


def configuration(name: str = "vit_tiny_patch16_224", size: int = 64, local: int = 32, **fields: Any) -> PretrainConfig:
    backbone = fields.pop("backbone", BackboneConfig(name=name))
    views = ViewsConfig(global_size=size, local_size=local)
    return PretrainConfig(data="data", out=Path("run"), backbone=backbone, views=views, **fields)


def pretrained(folder: Path, name: str, size: int, **arguments: Any) -> Any:
    """A folder as the hub has it: timm knows the grid and the pooling by the name and the input size alone."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, img_size=size, **arguments)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    card = ModelCard(
        architecture=name, arguments=arguments, image_size=size, mean=(0.1,) * 3, std=(0.2,) * 3, num_features=32
    )
    write_timm_folder(folder, model.state_dict(), card)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["fixed_input_size"] = True
    del config["global_pool"]
    (folder / "config.json").write_text(json.dumps(config))
    return model


def assert_timm_loads_what_was_trained(backbone: Any, card: ModelCard, folder: Path, *, masking: bool = True) -> Any:
    """Every weight moved, as training moves it; at the size of the global views and at another."""
    network = Network(backbone, HeadConfig(hidden=8, width=4), 0.0, masking=masking).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    write_timm_folder(folder, network.backbone.state_dict(), card)
    alone = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    loaded = load(folder)
    assert loaded.card == card
    for side in (card.image_size, card.image_size // 2):
        x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
        with torch.no_grad():
            found, expected = alone(x), network.tokens(x, None)[:, 0]
            assert torch.equal(found, loaded.model(x))
        assert found.shape == (2, card.num_features)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return alone


@pytest.mark.parametrize("backbone", [
    BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2),
    BackboneConfig(name="vit_small_patch14_dinov2", width=32, depth=2, heads=2, patch=16),
    BackboneConfig(name="vit_small_patch16_dinov3", width=32, depth=2, heads=2),
    BackboneConfig(name="eva02_tiny_patch14_224", width=32, depth=2, heads=2, patch=16),
    BackboneConfig(name="vit_small_patch16_dinov3", width=32, depth=2, heads=2, registers=0),
], ids=lambda b: f"{b.name}, {b.registers}")  # fmt: skip
def test_a_vit_that_is_built_can_be_loaded_by_timm(backbone: BackboneConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    found, card = first_backbone(configuration(backbone=backbone))
    assert card.global_pool == "token"
    assert_timm_loads_what_was_trained(found, card, tmp_path)


def test_a_convnext_that_is_built_can_be_loaded_by_timm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, card = first_backbone(configuration("convnext_atto", **IMAGE_LOSS_ALONE))
    assert capsys.readouterr().out.count("backbone.registers and backbone.layer_scale do not apply") == 1
    assert (card.architecture, card.global_pool, card.arguments) == ("convnext_atto", "avg", {})
    alone = assert_timm_loads_what_was_trained(found, card, tmp_path, masking=False)
    assert alone.pretrained_cfg["first_conv"] == "stem.0"
    # timm can put a classifier on it, and let it take other channels.
    for arguments, channels, width in (({"num_classes": 7}, 3, 7), ({"in_chans": 4}, 4, 320)):
        other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **arguments)
        assert other(torch.zeros(1, channels, 64, 64)).shape == (1, width)


@pytest.mark.parametrize(("name", "size", "arguments", "says"), [
    # Five patches across where the views have four: positions are resized in training and after.
    ("vit_small_patch14_dinov2", 80, {"patch_size": 16}, ""),
    ("vit_small_patch14_reg4_dinov2", 80, {"patch_size": 16}, ""),
    ("vit_small_patch16_dinov3", 80, {}, "avg"),
    ("vit_tiny_patch16_224", 80, {"global_pool": "avg"}, "avg"),
    ("eva02_tiny_patch14_224", 224, {"patch_size": 16, "global_pool": "avg"}, "avg"),
    ("vit_tiny_patch16_224", 80, {"global_pool": "map"}, "map"),
])  # fmt: skip
def test_a_pretrained_vit_goes_on_with_its_class_token(
    name: str, size: int, arguments: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pretrained(tmp_path / "hub", name, size, **SMALL, **arguments)
    found, card = first_backbone(configuration(init=str(tmp_path / "hub")))
    assert ("its feature is the class token from now on" in capsys.readouterr().out) == bool(says)
    assert card.mean == (0.1,) * 3
    assert (card.image_size, card.global_pool, list(card.arguments["img_size"])) == (64, "token", [size, size])
    # The weights are the pretrained ones, and what they computed they compute.
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(found.forward_features(x), model.eval().forward_features(x))
    assert_timm_loads_what_was_trained(found, card, tmp_path / "trained")


def test_a_pretrained_convnext_goes_on(tmp_path: Path) -> None:
    arguments = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 24]}
    model = timm.create_model("convnext_tiny", num_classes=0, **arguments).eval()
    card = ModelCard(
        architecture="convnext_tiny", arguments=arguments, image_size=64, mean=(0.1,) * 3, std=(0.2,) * 3,
        num_features=24, global_pool="avg", first_conv="stem.0", classifier="head.fc",
    )  # fmt: skip
    write_timm_folder(tmp_path / "hub", model.state_dict(), card)
    found, new = first_backbone(configuration(init=str(tmp_path / "hub"), **IMAGE_LOSS_ALONE))
    assert new == card
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(found(x), model(x))
    assert_timm_loads_what_was_trained(found, new, tmp_path / "trained", masking=False)


# --- What is refused


@pytest.mark.parametrize(("settings", "words"), [
    ({"name": "convnext_atto"}, "--masks.views 0 and --loss.patch-weight 0"),
    ({"name": "convnext_atto", "local": 48, **IMAGE_LOSS_ALONE}, "views.local_size 48 is not a multiple of the total"),
    ({"name": "convnext_atto", "size": 80, **IMAGE_LOSS_ALONE}, "views.global_size 80 is not a multiple of the total"),
    ({"name": "vit_small_patch14_dinov2", "size": 56, "local": 32}, "patch of 14 px of .*: choose 28 or 42"),
    ({"name": "resnet18"}, "batch norm"),
    ({"backbone": BackboneConfig(name="convnext_atto", width=64), **IMAGE_LOSS_ALONE}, "leave backbone.width at null"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        first_backbone(configuration(**settings))


def test_a_pretrained_network_with_batch_norm_is_refused(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=0)
    card = ModelCard(architecture="resnet18", arguments={}, image_size=64, mean=(0.1,), std=(0.2,), num_features=512)
    write_timm_folder(tmp_path, model.state_dict(), dataclasses.replace(card, mean=(0.1,) * 3, std=(0.2,) * 3))
    with pytest.raises(UserError, match="has batch norm: the teacher averages parameters, not running statistics"):
        first_backbone(configuration(init=str(tmp_path)))
