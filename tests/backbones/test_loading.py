"""Loading: the timm folder as timm itself reads it, every name that stands for one, and faults in one sentence."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from umbel.backbones import load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.run import UserError

CONFIG = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8)
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make_model() -> Any:
    torch.manual_seed(0)
    model = build(CONFIG, 32).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # so that every tensor matters to the features
    return model


def make_card() -> ModelCard:
    return ModelCard(
        architecture=CONFIG.name,
        arguments=model_arguments(CONFIG, 32),
        image_size=32,
        mean=MEAN,
        std=STD,
        num_features=32,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A backbone's config.json and model.safetensors."""
    write_timm_folder(tmp_path / "backbone", make_model().state_dict(), make_card())
    return tmp_path / "backbone"


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def assert_one_sentence(error: UserError) -> None:
    text = str(error)
    assert "\n" not in text
    assert re.search(r"[^.]\.$", text), text


# --- What timm reads


def test_timm_alone_loads_the_folder_with_equal_features(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(IMAGES), make_model()(IMAGES))


def test_timm_knows_input_size_mean_deviation_and_crop(folder: Path) -> None:
    data = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folder}", pretrained=True))
    assert tuple(data["input_size"]) == (3, 32, 32)
    assert (tuple(data["mean"]), tuple(data["std"])) == (MEAN, STD)
    assert (data["interpolation"], data["crop_pct"], data["crop_mode"]) == ("bicubic", 0.875, "center")


def test_the_weights_are_exactly_the_models(folder: Path) -> None:
    written, expected = load_file(folder / "model.safetensors"), make_model().state_dict()
    assert set(written) == set(expected)
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_config_json_is_plain_and_names_no_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == CONFIG.name
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 0
    assert config["num_features"] == 32
    assert config["model_args"] == model_arguments(CONFIG, 32)


def test_timm_can_put_a_classifier_on_it(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)
    assert model(IMAGES).shape == (3, 7)


# --- load()


@pytest.mark.parametrize("of", [lambda f: f, str, lambda f: f / "model.safetensors"], ids=["path", "text", "file"])
def test_loads_a_folder_and_its_file(folder: Path, of: Callable[[Path], Any]) -> None:
    backbone = load(of(folder))
    assert not backbone.model.training
    assert (backbone.dim, backbone.patch) == (32, 8)
    assert str(folder) in backbone.source
    with torch.inference_mode():
        assert torch.equal(backbone.model(IMAGES), make_model()(IMAGES))


def test_the_card_is_the_one_that_was_written(folder: Path) -> None:
    assert load(folder).card == make_card()


def test_writing_what_was_loaded_gives_the_same_folder(folder: Path, tmp_path: Path) -> None:
    backbone = load(folder)
    write_timm_folder(tmp_path / "again", backbone.model.state_dict(), backbone.card)
    assert (tmp_path / "again/config.json").read_text() == (folder / "config.json").read_text()
    assert load(tmp_path / "again").card == backbone.card


def test_the_transform_resizes_crops_and_normalizes(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    out = load(folder).transform(Image.fromarray(pixels))
    # The shorter side to 32 / 0.875 = 36, the middle 32 of it.
    resized = Image.fromarray(pixels).resize((57, 36), Image.Resampling.BICUBIC)
    left = round((57 - 32) / 2)
    middle = torch.from_numpy(np.array(resized)[2:34, left : left + 32]).permute(2, 0, 1).float() / 255
    expected = (middle - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_any_size_lets_other_images_in(folder: Path) -> None:
    assert load(folder, any_size=True).model(torch.randn(1, 3, 48, 48)).shape == (1, 32)


def test_a_run_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    old, new = make_model(), make_model()
    torch.nn.init.normal_(new.norm.bias)
    for step, model in ((90, old), (100, new)):
        path = tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "backbone"
        write_timm_folder(path, model.state_dict(), make_card())
    # What was not finished, or is being removed, does not count.
    (tmp_path / "run/checkpoints/.step-00000110.tmp/backbone").mkdir(parents=True)
    (tmp_path / "run/checkpoints/.step-00000110.tmp/backbone/config.json").write_text("{}")
    backbone = load(tmp_path / "run")
    assert "step-00000100" in backbone.source
    assert torch.equal(backbone.model.norm.bias, new.norm.bias)


# --- Faults


@pytest.mark.parametrize(("change", "word"), [
    (lambda w: {k: v for k, v in w.items() if k != "blocks.1.norm1.bias"}, "blocks.1.norm1.bias"),
    (lambda w: {("renamed" if k == "norm.weight" else k): v for k, v in w.items()}, "norm.weight"),
    (lambda w: w | {"one_more": torch.zeros(2)}, "one_more"),
    (lambda w: w | {"norm.bias": torch.zeros(31)}, "norm.bias"),
    (lambda w: w | {"blocks.0.attn.qkv.weight": torch.zeros(96, 16)}, "blocks.0.attn.qkv.weight"),
], ids=["missing", "renamed", "one more", "shape of a norm", "shape of a matrix"])  # fmt: skip
def test_weights_that_do_not_fit_are_refused_by_name(
    folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], word: str
) -> None:
    change_weights(folder, change)
    with pytest.raises(UserError, match=re.escape(word)):
        load(folder)


def test_refusals_are_one_sentence(folder: Path) -> None:
    change_weights(folder, lambda w: {k: v for k, v in w.items() if k != "norm.bias"})
    with pytest.raises(UserError) as caught:
        load(folder)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 1000, -4], ids=lambda n: f"first {n} bytes" if n >= 0 else f"but {-n} bytes")
def test_a_damaged_file_of_weights_is_the_users_to_know(folder: Path, keep: int) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:keep])
    with pytest.raises(UserError, match=re.escape(str(folder))):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"architecture": "vit_tiny_patch16_224"}', "[]"])
def test_a_damaged_config_is_the_users_to_know(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(str(folder))):
        load(folder)


@pytest.mark.parametrize(("key", "value"), [("embed_dim", 64), ("depth", 3), ("num_heads", 5), ("not_an_argument", 1)])
def test_a_config_of_another_model_is_refused(folder: Path, key: str, value: int) -> None:
    config = copy.deepcopy(make_card().config())
    config["model_args"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=re.escape(str(folder))):
        load(folder)


def test_a_config_of_an_unknown_architecture_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(make_card().config() | {"architecture": "vit_of_tomorrow"}))
    with pytest.raises(UserError, match="vit_of_tomorrow"):
        load(folder)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'vit_small_patch16_224'") as caught:
        load("vit_smal_patch16_224")
    assert re.search(r"[^.][.?]$", str(caught.value))
    with pytest.raises(UserError, match="neither a file or folder") as caught:
        load("quite_unlike_any_of_them")
    assert_one_sentence(caught.value)


def test_other_files_and_folders_are_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\x80")
    (tmp_path / "empty").mkdir()
    (folder / "config.json").unlink()
    paths = (tmp_path / "weights.bin", tmp_path / "empty", folder, folder / "model.safetensors", tmp_path / "nowhere")
    for path in paths:
        with pytest.raises(UserError, match=re.escape(str(path))) as caught:
            load(path)
        assert_one_sentence(caught.value)


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("format: 1\n")
    with pytest.raises(UserError, match="no checkpoint yet"):
        load(tmp_path)
