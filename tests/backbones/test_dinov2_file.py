"""DINOv2's names: what is written is read back equal, bit for bit, and features stay what they are."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from umbel.backbones.authors import read_released
from umbel.backbones.build import BackboneConfig, build
from umbel.backbones.dinov2_file import dinov2_state
from umbel.run import UserError

SIDE = 16


def vit(name: str = "vit_tiny_patch16_224", *, registers: int = 2, **arguments: Any) -> Any:
    """A ViT of Umbel's, with random weights in every tensor."""
    torch.manual_seed(0)
    config = BackboneConfig(name=name, width=64, depth=2, heads=1, patch=4, registers=registers, **arguments)
    model = build(config, SIDE).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("registers", [0, 2])
def test_a_run_of_umbels_is_read_back_equal(registers: int, tmp_path: Path) -> None:
    model = vit(registers=registers)
    torch.save(dinov2_state(model), tmp_path / "dinov2.pth")
    found = read_released(tmp_path / "dinov2.pth")
    state = model.state_dict()
    assert set(found.weights) == set(state)
    for name, tensor in state.items():
        assert torch.equal(found.weights[name], tensor), name


MODELS = {
    "positions of the class token": ("vit_tiny_patch16_224", {"init_values": 0.1}),
    "without LayerScale": ("vit_tiny_patch16_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {}),
    "SwiGLU": ("vit_giant_patch14_reg4_dinov2", {"mlp_ratio": 5.5}),
}


@pytest.mark.parametrize(("name", "arguments"), MODELS.values(), ids=MODELS)
def test_features_of_timms_vits_stay(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 1, "patch_size": 4, "img_size": SIDE, "num_classes": 0}
    model: Any = timm.create_model(name, **(sizes | {"global_pool": "token"} | arguments)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    state = dinov2_state(model)
    assert state["pos_embed"].shape == (1, 1 + (SIDE // 4) ** 2, 64)
    torch.save(state, tmp_path / "dinov2.pth")
    found = read_released(tmp_path / "dinov2.pth")
    again = timm.create_model(found.card.architecture, num_classes=0, **found.card.arguments).eval()
    again.load_state_dict(found.weights)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(again(images), model(images), rtol=0, atol=1e-5)


def test_the_mask_token_is_kept() -> None:
    token = torch.randn(1, 64)
    assert torch.equal(dinov2_state(vit(), mask_token=token)["mask_token"], token)
    assert not dinov2_state(vit())["mask_token"].any()


@pytest.mark.parametrize("name", ["convnext_atto", "vit_small_patch16_dinov3"])
def test_other_networks_are_refused(name: str) -> None:
    arguments = {"depth": 1} if "vit" in name else {}
    with pytest.raises(UserError, match="no plain ViT"):
        dinov2_state(timm.create_model(name, num_classes=0, **arguments))


def test_tensors_without_a_name_are_named() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0, qk_norm=True)
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.q_norm\.weight"):
        dinov2_state(model)
