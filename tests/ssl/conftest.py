"""Tiny networks of every kind that the trainer takes, with random weights, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

from umbel.backbones.build import BackboneConfig, build
from umbel.ssl.head import HeadConfig
from umbel.ssl.network import Network

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "dynamic_img_size": True, "num_classes": 0}
EIGHT: dict[str, Any] = SMALL | {"img_size": 32, "patch_size": 8, "global_pool": "token"}
SEVEN: dict[str, Any] = SMALL | {"img_size": 28, "patch_size": 7, "global_pool": "token"}
STAGES: dict[str, Any] = {"dims": (8, 12, 16, 24), "depths": (1, 1, 2, 1), "num_classes": 0}

# Each has a 4 x 4 grid of patches in an image of its own size; a ConvNeXt has a 2 x 2 map of a 64 px image.
VITS: dict[str, Callable[[], Any]] = {
    "ours": lambda: build(BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8), 32),
    "plain": lambda: timm.create_model("vit_tiny_patch16_224", **EIGHT),
    "pooled before the norm": lambda: timm.create_model("vit_tiny_patch16_224", **EIGHT, fc_norm=True),
    "norm before the blocks": lambda: timm.create_model("vit_base_patch32_clip_224", **EIGHT),
    "norms after the branches": lambda: VisionTransformer(**EIGHT, block_fn=ResPostBlock),
    "DINOv2": lambda: timm.create_model("vit_small_patch14_dinov2", **SEVEN),
    "DINOv2 with registers": lambda: timm.create_model("vit_small_patch14_reg4_dinov2", **SEVEN),
    "DINOv3": lambda: timm.create_model("vit_small_patch16_dinov3", **EIGHT),
    "DINOv3 with gates and biases": lambda: timm.create_model("vit_small_plus_patch16_dinov3_qkvb", **EIGHT),
    "EVA-02": lambda: timm.create_model("eva02_tiny_patch14_224", **SEVEN),
    "learned rotation": lambda: timm.create_model("vit_small_patch16_rope_mixed_224", **EIGHT),
    "Eva, norms after the branches": lambda: Eva(**EIGHT, use_post_norm=True, use_rot_pos_emb=True),
}
CONVNEXTS: dict[str, Callable[[], Any]] = {
    "ConvNeXt": lambda: timm.create_model("convnext_tiny", **STAGES),
    "ConvNeXt of convolutions alone": lambda: timm.create_model("convnext_atto", **STAGES),
    "ConvNeXt, norm before the pooling": lambda: timm.create_model("convnext_tiny", head_norm_first=True, **STAGES),
    "ConvNeXt V2": lambda: timm.create_model("convnextv2_nano", **STAGES),
}
MakeNetwork = Callable[..., Network]


@pytest.fixture(params=[*VITS, *CONVNEXTS])
def kind(request: pytest.FixtureRequest) -> str:
    """The name of a network, one after the other."""
    return str(request.param)


@pytest.fixture(params=VITS)
def vit_kind(request: pytest.FixtureRequest) -> str:
    """The name of a ViT, one after the other."""
    return str(request.param)


@pytest.fixture(params=CONVNEXTS)
def convnext_kind(request: pytest.FixtureRequest) -> str:
    """The name of a ConvNeXt, one after the other."""
    return str(request.param)


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    """Build a network by its kind, all parameters drawn anew: fresh ones hide the mask token and the biases."""

    def make(kind: str, drop_path: float = 0.0, dtype: torch.dtype = torch.float64, **settings: Any) -> Network:
        torch.manual_seed(0)
        backbone = (VITS | CONVNEXTS)[kind]()
        network = Network(backbone, HeadConfig(hidden=24, width=8), drop_path, **settings).to(dtype)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
        return network

    return make


@pytest.fixture(scope="session")
def side() -> Callable[[Network], int]:
    """The side of the images that a network of `make_network` was built for."""
    return lambda network: network.stride * (2 if network.convolutional else 4)
