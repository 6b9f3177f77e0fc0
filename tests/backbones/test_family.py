"""Which networks of timm's are trained, their stride and pooling."""

import re
from typing import Any

import pytest
import timm

from umbel.backbones.family import family_of, family_of_name, pooling_of, refusal, stride_of

SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 1, "num_heads": 2}
STAGES: dict[str, Any] = {"dims": (8, 8, 8, 8), "depths": (1, 1, 1, 1)}


@pytest.mark.parametrize(("name", "arguments", "family", "stride", "pooling"), [
    ("vit_small_patch16_224", SMALL, "vit", 16, "token"),
    ("vit_small_patch14_reg4_dinov2", SMALL | {"img_size": 28}, "vit", 14, "token"),
    ("deit3_small_patch16_224", SMALL, "vit", 16, "token"),
    ("vit_small_patch16_dinov3", SMALL, "eva", 16, "avg"),
    ("convnext_tiny", STAGES, "convnext", 32, "avg"),
    ("convnextv2_atto", STAGES, "convnext", 32, "avg"),
    ("convnext_tiny", STAGES | {"output_stride": 16}, "convnext", 16, "avg"),
])  # fmt: skip
@pytest.mark.parametrize("num_classes", [0, 3])
def test_what_is_trained(
    name: str, arguments: dict[str, Any], family: str, stride: int, pooling: str, num_classes: int
) -> None:
    model = timm.create_model(name, num_classes=num_classes, **arguments)
    assert family_of(model) == family_of_name(name) == family
    assert stride_of(model) == stride
    assert pooling_of(model) == pooling
    assert refusal(model, name) is None


@pytest.mark.parametrize(("name", "arguments", "word"), [
    ("deit_tiny_distilled_patch16_224", SMALL, "neither"),
    ("swin_tiny_patch4_window7_224", {}, "neither"),
    ("vit_base_patch16_siglip_224", SMALL, "no class token"),
    ("vit_tiny_r_s16_p8_224", {"depth": 1}, "feature maps of a convolutional network"),
    ("resnet18", {}, "batch norm"),
    ("convnext_atto", STAGES | {"norm_layer": "batchnorm2d"}, "batch norm"),
])  # fmt: skip
def test_what_is_not_trained_is_told_in_one_sentence(name: str, arguments: dict[str, Any], word: str) -> None:
    reason = refusal(timm.create_model(name, num_classes=0, **arguments), name)
    assert reason is not None
    assert name in reason
    assert word in reason
    assert re.search(r"[^.]\.$", reason)


def test_a_name_tells_the_class_before_there_is_a_network() -> None:
    assert family_of_name("resnet18") is None
    assert family_of_name("vit_small_patch14_dinov2.lvd142m") == "vit"
    for name in ("vit_tiny_patch16_224", "eva02_tiny_patch14_224", "flexivit_small", "convnext_atto_ols"):
        assert family_of(timm.create_model(name)) == family_of_name(name), name


@pytest.mark.parametrize(("name", "pooling"), [("resnet18", "avg"), ("vit_base_patch16_siglip_224", "map")])
def test_the_pooling_of_other_networks_is_named(name: str, pooling: str) -> None:
    arguments = SMALL if name.startswith("vit") else {}
    assert pooling_of(timm.create_model(name, num_classes=0, **arguments)) == pooling
