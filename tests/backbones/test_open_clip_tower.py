"""Image towers of open_clip as backbones: a small one with random weights, against open_clip itself."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from umbel.backbones import load
from umbel.evaluation.baselines import untrained
from umbel.evaluation.reading import ReadConfig, read_as
from umbel.run import UserError

VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
STATISTICS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
here = importlib.util.find_spec("open_clip") is not None
needs_open_clip = pytest.mark.skipif(not here, reason="open_clip is not installed: pip install 'umbel[text]'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What open_clip loads as local-dir:FOLDER."""
    return write_folder(tmp_path / "clip")


def write_folder(path: Path, **vision: Any) -> Path:
    path.mkdir()
    config = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": VISION | vision, "text_cfg": TEXT},
        "preprocess_cfg": STATISTICS | {"resize_mode": "squash"},
    }
    (path / "open_clip_config.json").write_text(json.dumps(config))
    open_clip: Any = importlib.import_module("open_clip")
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{path}", load_weights=False)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, path / "open_clip_model.safetensors")
    return path


@needs_open_clip
def test_features_are_those_that_open_clip_encodes(folder: Path) -> None:
    open_clip: Any = importlib.import_module("open_clip")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    backbone = load(f"open_clip:local-dir:{folder}")
    image = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB")
    assert torch.equal(backbone.transform(image), transform(image))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(backbone.model(images), model.eval().encode_image(images))
    assert (backbone.dim, backbone.card.mean) == (24, (0.1, 0.2, 0.3))


@needs_open_clip
def test_tokens_before_the_projection(folder: Path) -> None:
    backbone = load(f"open_clip:local-dir:{folder}")
    images = torch.randn(2, 3, 32, 32)
    both = read_as(backbone, ReadConfig(tokens="both"))
    with torch.inference_mode():
        found = both.model(images)
        projection = backbone.model.visual.proj
        torch.testing.assert_close(found[:, :64] @ projection, backbone.model(images))
        assert backbone.model.forward_features(images).shape == (2, 17, 64)
        torch.testing.assert_close(found[:, 64:], backbone.model.forward_features(images)[:, 1:].mean(1))
    fresh = untrained(both, seed=1)
    with torch.inference_mode():
        assert fresh.model(images).shape == (2, 128)
        assert (fresh.model(images) - found).abs().max() > 1e-3


@needs_open_clip
def test_what_open_clip_cannot_is_said_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    backbone = load(f"open_clip:local-dir:{folder}")
    with pytest.raises(UserError, match="cannot take images of 48 pixels"):
        read_as(backbone, ReadConfig(image_size=48))
    late = load(f"open_clip:local-dir:{write_folder(tmp_path / 'late', final_ln_after_pool=True)}")
    assert late.dim == 24
    with pytest.raises(UserError, match="gives no tokens: leave --tokens at pooled"):
        read_as(late, ReadConfig(tokens="mean"))
    (folder / "open_clip_model.safetensors").unlink()
    for name in (f"local-dir:{folder}", "local-dir:nowhere", "ViT-X-99", "ViT-S-32"):
        with pytest.raises(UserError, match=f"backbone open_clip:{name} cannot be loaded: ") as told:
            load(f"open_clip:{name}")
        assert "\n" not in str(told.value)


@pytest.mark.skipif(here, reason="open_clip is installed")
def test_without_open_clip_it_is_told_how_to_install_it() -> None:
    with pytest.raises(UserError, match=r"needs open_clip, which is not here \(.*\): pip install 'umbel\[text\]'\."):
        load("open_clip:hf-hub:imageomics/bioclip")
