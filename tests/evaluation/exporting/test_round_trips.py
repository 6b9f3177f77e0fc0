"""Round trips of every format, ViT and ConvNeXt: timm, DINOv2's names, ONNX float and 8-bit, any batch."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from numpy.typing import NDArray

from umbel.backbones import load
from umbel.backbones.authors import read_released
from umbel.evaluation.exporting.sample_images import dead_leaves

SIDE = 32
Exports = dict[str, Path]


def images(count: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def by_torch(folder: Path, given: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        made: NDArray[np.float32] = load(folder).model(torch.from_numpy(given)).numpy()
    return made


def by_onnx(file: Path, given: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["features"], {"images": given})[0])


def test_timm_is_exact(vit: Path, convnext: Path, vit_exports: Path, int8_exports: Exports) -> None:
    for source, folder in ((vit, vit_exports / "timm"), (convnext, int8_exports["convnext"] / "timm")):
        again: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        with torch.inference_mode():
            assert np.array_equal(again(torch.from_numpy(images())).numpy(), by_torch(source, images()))


def test_dinov2s_names_are_exact(vit: Path, vit_exports: Path) -> None:
    found = read_released(vit_exports / "dinov2" / "dinov2.pth", heads=2)
    state = load(vit).model.state_dict()
    assert set(state) == set(found.weights)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("heads", [True, False], ids=["the card's command", "no heads"])
def test_the_cards_command_gives_back_an_equal_backbone(
    heads: bool, vit: Path, vit_exports: Path, tmp_path: Path, umbel: Callable[..., Any]
) -> None:
    card = (vit_exports / "dinov2" / "README.md").read_text()
    (words,) = [line.split() for line in card.splitlines() if line.startswith("umbel import ")]
    given = [str(vit_exports / "dinov2" / "dinov2.pth"), str(tmp_path / "again"), *(words[4:] if heads else [])]
    assert (words[2:4], words[4:]) == (["dinov2.pth", "FOLDER"], ["--heads", "2"])
    assert umbel("import", *given).code == 0
    again, first, file = load(tmp_path / "again"), load(vit), load(vit_exports / "dinov2" / "dinov2.pth")
    assert (
        (again.card.mean, again.card.std) == (first.card.mean, first.card.std) == ((0.4, 0.45, 0.35), (0.2, 0.25, 0.3))
    )
    assert str(again.transform) == str(first.transform) == str(file.transform)
    (photograph,) = dead_leaves(1, width=60, height=50, seed=9)
    features = [one.model(one.transform(photograph)[None]) for one in (again, first, file)]
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnx_takes_any_batch(vit: Path, convnext: Path, vit_exports: Path, int8_exports: Exports, count: int) -> None:
    for source, folder in ((vit, vit_exports), (convnext, int8_exports["convnext"])):
        found = by_onnx(folder / "onnx" / "model.onnx", images(count))
        np.testing.assert_allclose(found, by_torch(source, images(count)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_8_bits_are_near_and_smaller(name: str, vit: Path, convnext: Path, int8_exports: Exports) -> None:
    folder = int8_exports[name] / "onnx"
    backbone = load({"vit": vit, "convnext": convnext}[name])
    given = np.stack([backbone.transform(picture).numpy() for picture in dead_leaves(6, width=60, height=50, seed=9)])
    with torch.inference_mode():
        expected = backbone.model(torch.from_numpy(given)).numpy()
    found = by_onnx(folder / "model.int8.onnx", given)
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert 0.99 < cosine.min() < 1 - 1e-9  # it is another model
    kinds = {node.op_type for node in onnx.load(folder / "model.int8.onnx").graph.node}
    assert ("DynamicQuantizeLinear" in kinds, "QuantizeLinear" in kinds) == (name == "vit", name == "convnext")
    tensors = onnx.load(folder / "model.int8.onnx").graph.initializer
    levels = [
        onnx.numpy_helper.to_array(t) for t in tensors if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    assert levels
    assert max(int(np.abs(level.astype(int)).max()) for level in levels) <= 64  # 7 bits
    # Depthwise filters, (C, 1, 7, 7), stay as they are.
    assert not [level for level in levels if level.shape[1:] == (1, 7, 7)]
    assert (folder / "model.int8.onnx").stat().st_size < (folder / "model.onnx").stat().st_size
    told = json.loads((folder / "self_test.json").read_text())["int8"]
    assert told["cosine"] > 0.99
    # Of the ViT there was no data, so that answers could not be judged.
    assert (told["accuracy_int8"] is None) == (name == "vit")


def test_the_file_tells_its_preprocessing(vit_exports: Path) -> None:
    props = {row.key: row.value for row in onnx.load(vit_exports / "onnx" / "model.onnx").metadata_props}
    settings = json.loads(props["preprocessing"])
    assert settings["mean"] == [0.4, 0.45, 0.35]
    assert (settings["size"], settings["resize"], settings["crop_mode"]) == (SIDE, 36, "center")


@pytest.mark.parametrize("name", ["timm", "dinov2", "onnx", "bundle"])
def test_every_folder_has_a_card_a_self_test_and_sums(name: str, vit_exports: Path) -> None:
    folder = vit_exports / name
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {file.name for file in folder.iterdir()} - {"SHA256SUMS"}
    for file, told in sums.items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == told
    test = json.loads((folder / "self_test.json").read_text())
    assert test["format"] == 1
    assert 0 <= test["largest_difference"] == max(test["random"], test["natural"]) <= test["bound"]
    assert test["largest_feature"] > 0.1
    text = (folder / "README.md").read_text()
    for title in ("Data", "Recipe", "Figures", "Preprocessing", "Intended use", "Limits", "Self-test"):
        assert f"\n## {title}\n" in text


def test_pictures_for_tests_are_the_same_every_time() -> None:
    first, again, other = (dead_leaves(2, width=40, height=30, seed=seed) for seed in (0, 0, 1))
    assert [p.tobytes() for p in first] == [p.tobytes() for p in again]
    assert first[0].tobytes() not in (first[1].tobytes(), other[0].tobytes())
    assert first[0].size == (40, 30)
    # Natural images have edges and flat parts: most neighbors are alike, some far apart.
    steps = np.abs(np.diff(np.asarray(dead_leaves(1, width=200, height=150)[0], dtype=float).mean(2), axis=1))
    assert np.median(steps) < 8 < 40 < np.quantile(steps, 0.99)
