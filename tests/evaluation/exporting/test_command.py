"""`umbel export --to`: what is asked for and nothing else; whole or not at all; cards that tell what is known."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umbel.backbones import load
from umbel.evaluation.exporting import asked, command, format_folders, onnx_target, onnx_work
from umbel.evaluation.exporting.card_data import data_lines, figure_lines, recipe_text, training_places
from umbel.evaluation.exporting.command import ExportConfig, run
from umbel.evaluation.exporting.onnx_target import Gate
from umbel.evaluation.exporting.self_test import self_test
from umbel.run import UserError

Refused = Callable[..., str]
GATE = {
    "cosine": 0.999, "least_cosine": 0.99, "images": 9, "accuracy_float": 0.8, "accuracy_int8": 0.795,
    "bytes_float": 4, "bytes_int8": 1,
}  # fmt: skip


def test_formats_are_named_with_commas_or_spaces() -> None:
    for named in (("onnx,timm",), ("onnx", "timm"), ("onnx, timm,", "timm")):
        assert ExportConfig(backbone=Path("run"), to=named).formats() == ("timm", "onnx")
    with pytest.raises(ValueError, match="'tim', did you mean 'timm'"):
        ExportConfig(backbone=Path("run"), to=("tim",))


def test_without_formats_it_is_the_timm_folder_alone(vit: Path, tmp_path: Path) -> None:
    run(ExportConfig(backbone=vit, out=tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}


def test_bad_input_is_one_sentence_and_writes_nothing(
    vit: Path, convnext: Path, tmp_path: Path, refused: Refused
) -> None:
    out = tmp_path / "out"
    (tmp_path / "notes.txt").write_text("mine")
    assert "--data" in refused("export", vit, "--to", "bundle", "--out", out)
    assert "add onnx or bundle" in refused("export", vit, "--to", "timm", "--int8", "--out", out)
    assert "a ConvNeXt, whose 8-bit model needs" in refused("export", convnext, "--to", "onnx", "--int8", "--out", out)
    assert "no plain ViT" in refused("export", convnext, "--to", "timm,dinov2", "--out", out)
    assert "per_class" in refused("export", vit, "--to", "timm", "--per-class", 1, "--out", out)
    assert "is a file" in refused("export", vit, "--to", "timm", "--out", tmp_path / "notes.txt")
    assert "where to export" in refused("export", vit / "model.safetensors", "--to", "timm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_unlabeled_photographs_make_no_bundle(
    vit: Path, make_shards: Callable[..., Path], tmp_path: Path, refused: Refused
) -> None:
    data = make_shards({"unlabeled": 6}, labels=False)
    told = refused("export", vit, "--to", "bundle", "--data", data, "--out", tmp_path / "out", "--workers", 0)
    assert "has no labels" in told
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_without_force(vit: Path, tmp_path: Path, refused: Refused) -> None:
    out = tmp_path / "out"
    (out / "dinov2").mkdir(parents=True)
    (out / "dinov2" / "thesis.txt").write_text("mine")
    assert "--force to move it aside" in refused("export", vit, "--to", "timm,dinov2", "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["dinov2"]
    run(ExportConfig(backbone=vit, out=out, to=("timm,dinov2",), force=True))
    assert (out / "dinov2.old-1" / "thesis.txt").read_text() == "mine"
    assert (out / "dinov2" / "SHA256SUMS").is_file()


def test_force_does_not_move_the_source_away(vit: Path, tmp_path: Path, refused: Refused) -> None:
    run(ExportConfig(backbone=vit, out=tmp_path, to=("timm",)))
    told = refused("export", tmp_path / "timm", "--to", "timm", "--out", tmp_path, "--force")
    assert "would be moved aside" in told
    assert (tmp_path / "timm" / "model.safetensors").is_file()


def when(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_a_killed_export_goes_on_behind_what_it_finished(
    vit: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings: dict[str, Any] = {"backbone": vit, "out": tmp_path, "to": ("timm,dinov2,onnx",), "data": str(shards)}
    with monkeypatch.context() as patch:

        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(format_folders, "write_dinov2", stop)
        with pytest.raises(KeyboardInterrupt):
            run(ExportConfig(**settings, workers=0))
    first = when(tmp_path)
    assert {Path(name).parts[0] for name in first} == {"timm"}
    run(ExportConfig(**settings, workers=0))
    whole = when(tmp_path)
    assert first.items() < whole.items()
    assert {Path(name).parts[0] for name in whole} == {"timm", "dinov2", "onnx"}
    assert "timm: " in capsys.readouterr().out
    monkeypatch.setattr(command, "load", None)  # nothing is left to do
    run(ExportConfig(**settings, workers=0))
    assert when(tmp_path) == whole
    assert capsys.readouterr().out.count("is kept") == 3


@pytest.mark.parametrize("change", ["file", "another file", "no sums", "weights", "config", "version"])
def test_what_is_not_the_same_export_or_not_whole_is_refused(
    change: str, vit: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(vit, source)
    run(ExportConfig(backbone=source, out=out, to=("timm",)))
    if change == "file":
        card = out / "timm" / "README.md"
        card.write_text(card.read_text() + "more")
    elif change == "another file":
        (out / "timm" / "thesis.txt").write_text("mine")
    elif change == "no sums":
        (out / "timm" / "SHA256SUMS").unlink()
    elif change == "version":
        monkeypatch.setattr(asked, "__version__", "0.0")
    else:
        file = source / {"weights": "model.safetensors", "config": "config.json"}[change]
        file.write_bytes(file.read_bytes() + b" ")
    before = when(out)
    assert "--force to move it aside" in refused("export", source, "--to", "timm", "--out", out)
    assert when(out) == before


def test_what_is_asked_of_photographs_is_part_of_an_export_that_reads_them(
    vit: Path, shards: Path, make_shards: Callable[..., Path]
) -> None:
    def told(*formats: str, **changes: Any) -> dict[str, dict[str, Any]]:
        settings: dict[str, Any] = {"data": str(shards), "int8": False, "per_class": 9} | changes
        return asked.asked_of(vit, formats, **settings)

    every = ("timm", "dinov2", "onnx", "bundle")
    same, other = told(*every), {"data": str(make_shards({"train": 9})), "per_class": 8}
    assert same == told(*every) == json.loads(json.dumps(same))
    for name, value in other.items():
        changed = told(*every, **{name: value})
        assert [one for one in every if changed[one] != same[one]] == ["bundle"]
        eight = (told("onnx", int8=True), told("onnx", int8=True, **{name: value}))
        assert eight[0] != eight[1]
    changed = told(*every, int8=True)
    assert [one for one in every if changed[one] != same[one]] == ["onnx", "bundle"]
    assert told("timm", "onnx", data="nowhere") == {name: same[name] for name in ("timm", "onnx")}


def test_a_folder_of_photographs_is_called_by_its_name(
    vit: Path, colors: Callable[[str, int], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    for name in ("anemone", "borago"):
        (tmp_path / "ph" / name).mkdir(parents=True)
        for number in range(60):
            colors(name, number).save(tmp_path / "ph" / name / f"{number}.png")
    run(ExportConfig(backbone=vit, out=tmp_path / "out", to=("bundle",), data=str(tmp_path / "ph"), workers=0))
    told = capsys.readouterr().out
    assert "no split val to calibrate the confidence by: a fifth of every class, held out of train, takes" in told
    assert "- ph: source not stated" in (tmp_path / "out" / "bundle" / "README.md").read_text()
    shutil.rmtree(tmp_path / "ph" / "borago")
    arguments = ("--data", tmp_path / "ph", "--out", tmp_path / "other", "--workers", 0)
    assert f"{tmp_path / 'ph'} has photographs of 1 class" in refused("export", vit, "--to", "bundle", *arguments)


def test_without_a_confidence_none_is_calibrated(
    vit: Path, make_shards: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(make_shards({"train": 30}))
    run(ExportConfig(backbone=vit, out=tmp_path, to=("onnx",), int8=True, data=data, workers=0))
    told = capsys.readouterr().out
    assert "no split val to compare the 8-bit model with the float one by: a fifth of every class" in told
    assert "calibrate" not in told


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_export_leaves_no_folder(
    error: Any, vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "older.txt").write_text("older")

    def stop(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(format_folders, "finish", stop)
    with pytest.raises((KeyboardInterrupt, OSError)):
        run(ExportConfig(backbone=vit, out=tmp_path, to=("timm",), force=True))
    assert [path.name for path in tmp_path.rglob("*")] == ["timm", "older.txt"]


def test_a_self_test_that_fails_is_told(vit: Path) -> None:
    backbone = load(vit)
    for wrong in (0.01, np.nan):
        with pytest.raises(UserError, match="the features of a copy differ"):
            self_test(
                backbone, lambda images, wrong=wrong: np.full((len(images), 64), wrong, np.float32), "a copy", bound=1
            )
    with pytest.raises(UserError, match="differ"):
        self_test(backbone, lambda images: np.zeros((len(images), 3), np.float32), "a copy", bound=100)


# --- The gate of 8 bits


@pytest.mark.parametrize(("change", "word"), [
    ({"cosine": 0.98}, "0.9800 over 9 images, less than 0.99"),
    ({"cosine": float("nan")}, "cosine"),
    ({"accuracy_int8": 0.785}, "78.5 % of photographs"),
], ids=["cosine", "not a number", "accuracy"])  # fmt: skip
def test_8_bits_that_are_not_near_are_refused(change: dict[str, Any], word: str) -> None:
    Gate(**GATE).check()  # type: ignore[arg-type]
    Gate(**GATE | {"accuracy_float": None, "accuracy_int8": None}).check()  # type: ignore[arg-type]
    with pytest.raises(UserError, match=word):
        Gate(**GATE | change).check()  # type: ignore[arg-type]


def test_a_refused_model_leaves_nothing(
    vit: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_target, "LEAST_COSINE", 1.01)
    assert "the 8-bit model is refused" in refused("export", vit, "--to", "onnx", "--int8", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_calibration_and_comparison_take_other_photographs(shards: Path, vit: Path) -> None:
    from umbel.data.index import open_shards

    backbone, data = load(vit), open_shards(str(shards))
    first, again, other = (onnx_work._sample(backbone, data, 40, seed=seed, workers=0) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    shared = {image.tobytes() for image in first} & {image.tobytes() for image in other}
    assert not shared


# --- The model card


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run folder as far as a card reads it, and its shards with licenses."""
    data = tmp_path / "lab" / "meadow" / "shards"
    data.mkdir(parents=True)
    (data / "source.json").write_text(json.dumps({"format": 1, "source": "inat2021"}))
    tally = {"CC BY-NC 4.0": 12, "CC0": 1500} | {f"License {n}": 1 for n in range(10)}
    told = {"format": 1, "licenses": tally, "rights_holders": {"Ada": 3, "Bo": 4}}
    (data / "licenses.json").write_text(json.dumps(told))
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    recipe = f"format: 1\ncommand: pretrain\ndata: {data}\nout: {run_folder}\ntrain:\n  batch: 64\n"
    (run_folder / "config.yaml").write_text(recipe)
    row = {"name": "the run", "shots": 5, "mean": 0.81, "interval": 0.012, "draws": 50, "k": 20, "knn": 0.775}
    (run_folder / "probe.json").write_text(json.dumps({"format": 1, "command": "probe", "rows": [row]}))
    return run_folder


def test_the_card_tells_data_terms_recipe_and_figures(trained: Path) -> None:
    lines = data_lines(training_places(trained))
    assert lines[0] == "- meadow: source inat2021; licenses as follows"
    assert lines[1:3] == ["  - CC0: 1,500 photographs", "  - CC BY-NC 4.0: 12 photographs"]
    assert lines[-2:] == ["  - 2 other licenses: 2 photographs", "  - rights holders: 2, named in the shards"]
    recipe = recipe_text(trained)
    assert "batch: 64" in recipe
    assert str(trained.parent) not in recipe
    assert figure_lines(trained) == [
        "- the run: 5-shot nearest class mean 81.0 % ± 1.2 (95 % interval over 50 draws), 20 nearest neighbors 77.5 %"
    ]


def test_the_card_says_what_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "garden").mkdir()
    assert data_lines([str(tmp_path / "garden")]) == ["- garden: source not stated; licenses not stated"]
    assert training_places(tmp_path) == []
    assert recipe_text(tmp_path) == "The recipe is not stated."
    assert "has not been probed" in figure_lines(tmp_path)[0]


def test_the_bundles_card_has_its_figures_with_intervals(vit_exports: Path) -> None:
    told = json.loads((vit_exports / "bundle" / "bundle.json").read_text())
    text = (vit_exports / "bundle" / "README.md").read_text()
    assert told["photographs"] == {"classes": 32, "validation": 32, "measured": 24}
    assert told["measured_on"] == "split test"
    right = told["figures"]["right"]
    assert 0.5 < right["low"] <= right["value"] <= right["high"]
    assert f"- right: {100 * right['value']:.1f} % ({100 * right['low']:.1f} to {100 * right['high']:.1f})" in text
    assert f"temperature of {told['temperature']:.3g}" in text
    assert "source not stated; licenses not stated" in text
    strangers = told["figures"]["species that are no class, answered all the same"]
    assert 0 <= strangers["low"] <= strangers["value"] <= strangers["high"] <= 1
    assert told["classes"] == ["anemone", "borago", "crocus", "daphne"]
