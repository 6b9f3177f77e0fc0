"""`umbel import`: released files, runs and folders become timm folders; nothing is lost, guessed or overwritten."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.dinov2_file import dinov2_state
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.backbones.import_command import ImportConfig, run
from umbel.backbones.told_beside import write_beside
from umbel.image_statistics import IMAGENET_MEAN, INAT_PLANTAE_MEAN

CONFIG = BackboneConfig(name="vit_tiny_patch16_224", width=64, depth=4, heads=1, patch=8, registers=2)
State = dict[str, Tensor]
Refused = Callable[..., str]


@pytest.fixture
def backbone() -> Any:
    torch.manual_seed(0)
    model = build(CONFIG, 32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def assert_loads(folder: Path, model: Any, *, mean: tuple[float, ...] | None = None) -> None:
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    state = model.state_dict()
    assert set(state) == set(again.state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert mean is None or tuple(again.pretrained_cfg["mean"]) == mean


def timm_folder(path: Path, model: Any) -> Path:
    card = ModelCard(
        architecture=CONFIG.name,
        arguments=model_arguments(CONFIG, 32),
        image_size=32,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        num_features=64,
    )
    write_timm_folder(path, model.state_dict(), card)
    return path


def in_chunks(state: State) -> State:
    parts = {name: name.split(".") for name in state}
    return {
        ".".join(["blocks", str(int(p[1]) // 2), *p[1:]]) if p[0] == "blocks" else name: state[name]
        for name, p in parts.items()
    }


def teacher(state: State) -> dict[str, Any]:
    head = {f"dino_head.mlp.{n}.{kind}": torch.zeros(8, 8) for n in (0, 2, 4) for kind in ("weight", "bias")}
    return {"teacher": {f"backbone.{name}": tensor for name, tensor in state.items()} | head}


def test_a_file_of_simdinov2s_authors_with_chunked_blocks(
    backbone: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(teacher(in_chunks(dinov2_state(backbone))), tmp_path / "plants.pth")
    run(ImportConfig(source=tmp_path / "plants.pth", folder=tmp_path / "deep" / "out"))
    assert_loads(tmp_path / "deep" / "out", backbone, mean=INAT_PLANTAE_MEAN)
    told = capsys.readouterr().out
    assert "dropped dino_head (6), mask_token (1)" in told
    assert "attention heads 1: its width 64 / 64" in told
    assert f"local-dir:{tmp_path / 'deep' / 'out'}" in told


def test_heads_and_statistics_are_told(backbone: Any, tmp_path: Path) -> None:
    torch.save(teacher(dinov2_state(backbone)), tmp_path / "plants.pth")
    run(ImportConfig(source=tmp_path / "plants.pth", folder=tmp_path / "out", heads=4, statistics="imagenet"))
    assert_loads(tmp_path / "out", backbone, mean=IMAGENET_MEAN)
    assert timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).blocks[0].attn.num_heads == 4


@pytest.mark.parametrize("given", ["run", "checkpoint", "training.pt", "backbone", "model.safetensors"])
def test_a_run_and_all_that_lies_in_it(given: str, backbone: Any, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000007"
    folder = timm_folder(checkpoint / "backbone", backbone)
    (checkpoint / "training.pt").write_bytes(b"is not read")
    places = {"run": tmp_path / "run", "checkpoint": checkpoint, "training.pt": checkpoint / "training.pt"}
    source = (places | {"backbone": folder, "model.safetensors": folder / "model.safetensors"})[given]
    run(ImportConfig(source=source, folder=tmp_path / "out"))
    assert_loads(tmp_path / "out", backbone, mean=(0.1, 0.2, 0.3))


@pytest.mark.parametrize(("change", "word"), [
    (lambda state: state.pop("norm.bias"), "norm.bias"),
    (lambda state: state.update({"norm.other": torch.ones(64)}), "norm.other"),
    (lambda state: state.update({"pos_embed": torch.zeros(1, 4, 64)}), "pos_embed (1, 4, 64)"),
    (lambda state: state.update({"reg_token": state["reg_token"].int()}), "reg_token"),
], ids=["missing", "left over", "another shape", "whole numbers"])  # fmt: skip
def test_a_folder_whose_tensors_do_not_fit_is_refused_by_name(
    change: Callable[[State], Any], word: str, backbone: Any, tmp_path: Path, refused: Refused
) -> None:
    folder = timm_folder(tmp_path / "timm", backbone)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    assert word in refused("import", folder, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_bad_input_is_one_sentence(backbone: Any, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    folder = timm_folder(tmp_path / "timm", backbone)
    assert "does not exist" in refused("import", tmp_path / "nowhere", tmp_path / "out")
    assert "notes.txt is no backbone" in refused("import", tmp_path / "notes.txt", tmp_path / "out")
    assert "leave --heads out" in refused("import", folder, tmp_path / "out", "--heads", 2)
    assert "leave --statistics out" in refused("import", folder, tmp_path / "out", "--statistics", "imagenet")
    assert "heads must be at least 1" in refused("import", folder, tmp_path / "out", "--heads", 0)
    assert "is a file" in refused("import", folder, tmp_path / "notes.txt")
    assert "--force" in refused("import", folder, folder)
    assert "would be moved aside" in refused("import", folder, folder, "--force")
    assert not (tmp_path / "out").exists()


def test_what_stands_there_is_moved_aside_only_if_asked_and_only_for_a_whole_import(
    backbone: Any, tmp_path: Path, refused: Refused
) -> None:
    folder, out = timm_folder(tmp_path / "timm", backbone), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert "--force" in refused("import", folder, out)
    (tmp_path / "broken.pth").write_bytes(b"torn")
    refused("import", tmp_path / "broken.pth", out, "--force")
    assert (out / "thesis.txt").read_text() == "mine"
    run(ImportConfig(source=folder, folder=out, force=True))
    assert_loads(out, backbone)
    assert (tmp_path / "out.old-1" / "thesis.txt").read_text() == "mine"


def test_heads_that_do_not_divide_the_width_are_one_sentence(backbone: Any, tmp_path: Path, refused: Refused) -> None:
    torch.save(dinov2_state(backbone), tmp_path / "dinov2.pth")
    told = refused("import", tmp_path / "dinov2.pth", tmp_path / "out", "--heads", 3)
    assert "width 64 is no multiple of 3 attention heads" in told
    assert not (tmp_path / "out").exists()


def test_what_stands_beside_a_file_tells_heads_and_statistics_unless_they_are_given(
    backbone: Any, tmp_path: Path, refused: Refused
) -> None:
    source = tmp_path / "dinov2.pth"
    torch.save(dinov2_state(backbone), source)
    write_beside(source, heads=4, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    run(ImportConfig(source=source, folder=tmp_path / "told"))
    run(ImportConfig(source=source, folder=tmp_path / "given", heads=2, statistics="imagenet"))
    for name, heads, mean in (("told", 4, (0.1, 0.2, 0.3)), ("given", 2, IMAGENET_MEAN)):
        assert_loads(tmp_path / name, backbone, mean=mean)
        assert timm.create_model(f"local-dir:{tmp_path / name}", pretrained=True).blocks[0].attn.num_heads == heads
    beside = tmp_path / "dinov2.pth.json"
    told = json.loads(beside.read_text())
    for change in ({"std": [0.4, 0.5, 0]}, {"mean": [0.1, 0.2]}, {"mean": [0.1, float("nan"), 0.2]}, {"heads": "4"}):
        beside.write_text(json.dumps(told | change))
        assert "export anew, or move it away" in refused("import", source, tmp_path / "out")
    beside.write_text("{")
    assert "dinov2.pth.json" in refused("import", source, tmp_path / "out")
