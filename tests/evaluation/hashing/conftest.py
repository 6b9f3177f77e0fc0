"""Small encoders with random weights, and shards with labels and captions, for the tests of adapters and towers."""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder

CLASSES = ("Rosa canina", "Salvia pratensis", "Thymus vulgaris")


@pytest.fixture
def tiny_vit(tmp_path: Path) -> Path:
    """A ViT of two blocks, width 16, images of 16 pixels."""
    config = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=2, heads=2, patch=8, registers=0)
    torch.manual_seed(0)
    network = build(config, 16)
    for parameter in network.parameters():  # as they are made, features of all images are nearly alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    card = ModelCard(
        architecture=config.name,
        arguments=model_arguments(config, 16),
        image_size=16,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        num_features=16,
    )
    write_timm_folder(tmp_path / "vit", network.state_dict(), card)
    # Its photographs are prepared otherwise than Umbel's own backbones have it.
    file = tmp_path / "vit" / "config.json"
    told = json.loads(file.read_text())
    told["pretrained_cfg"] |= {"crop_pct": 0.95, "interpolation": "bilinear"}
    file.write_text(json.dumps(told))
    return tmp_path / "vit"


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """Write what open_clip loads as local-dir:FOLDER: two towers of width 32, features of width 12."""

    def make(name: str = "clip", *, seed: int = 0) -> Path:
        open_clip: Any = importlib.import_module("open_clip")
        folder = tmp_path / name
        folder.mkdir()
        config = {
            "model_cfg": {
                "embed_dim": 12,
                "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
                "text_cfg": {"context_length": 10, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
            },
            "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3], "resize_mode": "squash"},
        }
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, folder / "open_clip_model.safetensors")
        return folder

    return make


@pytest.fixture
def captioned(
    tmp_path: Path, jpeg: Callable[..., bytes], write_tar: Callable[[Path, Mapping[str, bytes]], Path]
) -> Path:
    """30 train and 9 test photographs of three classes; one has no label and no caption, one is damaged."""
    for split, count, first in (("train", 30, 0), ("test", 9, 100)):
        members: dict[str, bytes] = {}
        for row in range(count):
            key, plain = f"plant_{first + row:03d}", split == "train" and row == 4
            content = b"no photograph" if split == "train" and row == 7 else jpeg(row % 3, width=20 + row, height=24)
            members |= {f"{key}.jpg": content}
            if not plain:
                members |= {f"{key}.cls": str(row % 3).encode(), f"{key}.txt": f"{CLASSES[row % 3]}, {row}".encode()}
        write_tar(tmp_path / "plants" / f"{split}-000000.tar", members)
    (tmp_path / "plants" / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return tmp_path / "plants"
