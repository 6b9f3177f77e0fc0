"""`umbel export` on a run as training leaves it: the newest teacher, loadable by timm alone; nothing is overwritten."""

import contextlib
import copy
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.export import ExportConfig, run
from umbel.backbones.folder import ModelCard
from umbel.run import UserError
from umbel.ssl.checkpoint import save_checkpoint
from umbel.ssl.head import HeadConfig
from umbel.ssl.network import Network
from umbel.ssl.optimizer import OptimConfig, build_optimizer

CONFIG = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8)
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FILES = {"config.json", "model.safetensors"}


def save(folder: Path, step: int) -> Any:
    """A run's checkpoint by the trainer's own function; returns the teacher's backbone."""
    torch.manual_seed(step)
    student = Network(build(CONFIG, 32), HeadConfig(hidden=8, width=4), 0.0)
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # student and teacher differ in every tensor
    card = ModelCard(
        architecture=CONFIG.name,
        arguments=model_arguments(CONFIG, 32),
        image_size=32,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        num_features=32,
    )
    optimizer = build_optimizer(student, OptimConfig())
    save_checkpoint(folder / "checkpoints", step=step, student=student, teacher=teacher, optimizer=optimizer, card=card)
    return teacher.backbone


def assert_exported(out: Path, backbone: Any) -> None:
    """By timm alone, as the user would."""
    assert {path.name for path in out.iterdir()} == FILES
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(IMAGES), backbone(IMAGES))
    assert tuple(model.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3)
    assert tuple(model.pretrained_cfg["input_size"]) == (3, 32, 32)


def test_exports_the_teacher_of_the_newest_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 90)
    newest = save(tmp_path, 100)
    run(ExportConfig(backbone=tmp_path))
    assert_exported(tmp_path / "export/timm", newest)
    text = capsys.readouterr().out
    assert "step-00000100" in text
    # What it says is what one types.
    name = re.search(r'timm.create_model\("(local-dir:.*)", pretrained=True\)', text)
    assert name is not None
    timm.create_model(name[1], pretrained=True)


def test_exports_to_a_place_of_the_users_even_one_that_is_empty(tmp_path: Path) -> None:
    backbone = save(tmp_path / "run", 1)
    for out in (tmp_path / "deep/er/out", tmp_path / "empty"):
        if out.name == "empty":
            out.mkdir()
        run(ExportConfig(backbone=tmp_path / "run", out=out))
        assert_exported(out, backbone)
    assert not (tmp_path / "run/export").exists()


def test_exports_a_timm_folder_again(tmp_path: Path) -> None:
    backbone = save(tmp_path / "run", 1)
    run(ExportConfig(backbone=tmp_path / "run/checkpoints/step-00000001/backbone", out=tmp_path / "out"))
    assert_exported(tmp_path / "out", backbone)


def test_a_second_export_of_the_same_says_so_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    run(ExportConfig(backbone=tmp_path))
    first = (tmp_path / "export/timm/model.safetensors").stat()
    capsys.readouterr()
    run(ExportConfig(backbone=tmp_path))
    assert "already holds" in capsys.readouterr().out
    assert (tmp_path / "export/timm/model.safetensors").stat() == first
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["timm"]


def test_a_newer_checkpoint_takes_the_default_place_and_the_older_stays_beside(tmp_path: Path) -> None:
    older = save(tmp_path, 1)
    run(ExportConfig(backbone=tmp_path))
    newer = save(tmp_path, 2)
    run(ExportConfig(backbone=tmp_path))
    assert_exported(tmp_path / "export/timm", newer)
    assert_exported(tmp_path / "export/timm.old-1", older)


def test_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    backbone = save(tmp_path / "run", 1)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="--force"):
        run(ExportConfig(backbone=tmp_path / "run", out=out))
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    run(ExportConfig(backbone=tmp_path / "run", out=out, force=True))
    assert_exported(out, backbone)
    assert (tmp_path / "out.old-1/thesis.txt").read_text() == "mine"


def test_a_backbone_that_does_not_load_leaves_no_export(tmp_path: Path) -> None:
    save(tmp_path, 1)
    weights = tmp_path / "checkpoints/step-00000001/backbone/model.safetensors"
    tensors = load_file(weights)
    del tensors["norm.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"norm\.weight"):
        run(ExportConfig(backbone=tmp_path))
    assert not list((tmp_path / "export").iterdir())


def test_features_that_differ_are_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    honest = timm.create_model

    def another(name: str, **arguments: Any) -> Any:
        model = honest(name, **arguments)
        if "export" in name:
            torch.nn.init.normal_(model.norm.bias)
        return model

    monkeypatch.setattr(timm, "create_model", another)
    with pytest.raises(UserError, match="differ"):
        run(ExportConfig(backbone=tmp_path))
    assert not list((tmp_path / "export").iterdir())


@pytest.mark.parametrize("made", ["nothing", "an empty folder", "a run that has just begun"])
def test_what_holds_no_backbone_is_refused(tmp_path: Path, made: str) -> None:
    place = tmp_path / "place"
    if made != "nothing":
        place.mkdir()
    if made == "a run that has just begun":
        (place / "config.yaml").write_text("format: 1\n")
    with pytest.raises(UserError, match=re.escape(str(place))):
        run(ExportConfig(backbone=place))
    assert not (place / "export").exists()


def test_a_file_at_out_is_the_users_mistake(tmp_path: Path) -> None:
    save(tmp_path / "run", 1)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="thesis"):
        run(ExportConfig(backbone=tmp_path / "run", out=tmp_path / "thesis.txt"))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_file_of_weights_needs_a_place_or_gets_one_beside_it(tmp_path: Path) -> None:
    # `load` takes model.safetensors itself; export must take it too, or refuse it in one sentence.
    backbone = save(tmp_path / "run", 1)
    weights = tmp_path / "run/checkpoints/step-00000001/backbone/model.safetensors"
    run(ExportConfig(backbone=weights, out=tmp_path / "out"))
    assert_exported(tmp_path / "out", backbone)
    with contextlib.suppress(UserError):
        run(ExportConfig(backbone=weights))
