"""Training starts from a checkpoint that SimDINOv2's or DINOv2's authors released."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import timm
import torch

from umbel.augment.views import ViewsConfig
from umbel.backbones.authors_names import expected_shapes
from umbel.backbones.folder import write_timm_folder
from umbel.backbones.loading import load
from umbel.image_statistics import IMAGENET_MEAN, INAT_PLANTAE_MEAN
from umbel.ssl.head import HeadConfig
from umbel.ssl.network import Network
from umbel.ssl.pretrain import first_backbone
from umbel.ssl.pretrain_config import PretrainConfig


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A ViT of patch 8 and width 64 with two registers, its positions learned for 32 px."""
    generator = torch.Generator().manual_seed(0)
    shapes = expected_shapes(width=64, depth=2, patch=8, grid=4, registers=2, swiglu=False)
    tensors = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    torch.save({"teacher": {f"backbone.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "simdino.pth")
    torch.save(tensors, tmp_path / "dinov2.pth")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "mean"), [("simdino.pth", INAT_PLANTAE_MEAN), ("dinov2.pth", IMAGENET_MEAN)], ids=["SimDINOv2", "DINOv2"]
)
def test_its_weights_and_statistics_go_into_the_run(
    file: str, mean: tuple[float, ...], released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = ViewsConfig(global_size=48, local_size=16, local_views=1)
    config = PretrainConfig(data="data", out=Path("run"), init=str(released / file), views=views)
    backbone, card = first_backbone(config)
    told = capsys.readouterr().out
    assert "attention heads 1: its width 64 / 64" in told
    assert f"starting from file {released / file}; its mean {mean}" in told
    assert (card.mean, card.image_size, card.num_features) == (mean, 48, 64)
    before = load(released / file).model
    network = Network(backbone, HeadConfig(hidden=8, width=4), config.optim.drop_path)
    classes = network.train()(torch.randn(4, 3, 48, 48), torch.randn(2, 3, 16, 16), None, torch.arange(3)).classes
    classes.sum().backward()
    assert all(parameter.grad is not None for parameter in network.backbone.parameters())
    # What a checkpoint of the run holds, as timm alone loads it.
    write_timm_folder(released / "timm", backbone.state_dict(), card)
    alone = timm.create_model(f"local-dir:{released / 'timm'}", pretrained=True).eval()
    assert dataclasses.replace(load(released / "timm").card, arguments={}) == dataclasses.replace(card, arguments={})
    with torch.inference_mode():
        for side in (32, 48, 64):
            images = torch.randn(2, 3, side, side)
            torch.testing.assert_close(alone(images), before(images), rtol=0, atol=1e-5)
