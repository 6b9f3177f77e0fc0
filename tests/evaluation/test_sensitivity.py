"""Sensitivity of a backbone: which photographs, embedded as ever, changed before the normalization, repeatable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import horizontal_flip

from umbel.backbones import Backbone, load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import ShardSet
from umbel.evaluation import sensitivity as room
from umbel.evaluation.extract import open_data
from umbel.evaluation.sensitivity import choose_photographs, sensitivity
from umbel.evaluation.sensitivity_operations import Change, changes
from umbel.run import UserError

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8)
COLORS = {"aconitum": (90, 60, 160), "bellis": (230, 230, 210), "crocus": (180, 90, 40)}


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    torch.manual_seed(3)
    card = ModelCard(
        architecture=TINY.name,
        arguments=model_arguments(TINY, 16),
        image_size=16,
        mean=(0.43, 0.46, 0.33),
        std=(0.22, 0.21, 0.2),
        num_features=16,
    )
    write_timm_folder(tmp_path / "backbone", build(TINY, 16).state_dict(), card)
    return load(tmp_path / "backbone")


@pytest.fixture
def flowers(tmp_path: Path) -> ShardSet:
    """Noise around a color of each species, 5 photographs each."""
    generator = np.random.default_rng(0)
    for name, color in COLORS.items():
        folder = tmp_path / "flowers" / name
        folder.mkdir(parents=True)
        for number in range(5):
            image = np.array(color) + generator.integers(-40, 40, (24, 24, 3))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return open_data(str(tmp_path / "flowers"), tmp_path / "shards", 16, workers=0)


def some(*names: str) -> list[Change]:
    return [change for change in changes() if change.operation in names]


def measure(backbone: Backbone, shards: ShardSet, asked: list[Change], **settings: Any) -> room.Sensitivity:
    return sensitivity(backbone, shards, **({"photographs": 12, "seed": 0, "device": "cpu", "asked": asked} | settings))


def test_photographs_are_balanced_over_species() -> None:
    label = np.array([0] * 20 + [1] * 3 + [2] * 7 + [3] + [-1] * 9)
    rows = choose_photographs(label, 12, seed=5)
    assert np.bincount(label[rows]).tolist() in ([5, 3, 4], [4, 3, 5])
    assert rows.tolist() == sorted({*rows.tolist()})
    assert rows.tolist() == choose_photographs(label, 12, seed=5).tolist()
    assert rows.tolist() != choose_photographs(label, 12, seed=6).tolist()
    assert len(choose_photographs(label, 500, seed=5)) == 30


def test_with_few_photographs_there_are_fewer_species_with_two_each() -> None:
    label = np.repeat(np.arange(30), 4)
    rows = choose_photographs(label, 11, seed=0)
    assert sorted(np.unique(label[rows], return_counts=True)[1].tolist()) == [2, 2, 2, 2, 3]


def test_labels_that_do_not_suffice_are_told() -> None:
    with pytest.raises(UserError, match="needs two species with two labeled photographs each"):
        choose_photographs(np.array([0, 0, 0, 1, 2, -1, -1]), 10, seed=0)


def test_photographs_are_changed_as_they_are_before_the_normalization(backbone: Backbone, flowers: ShardSet) -> None:
    seen: list[torch.Tensor] = []

    def look(images: torch.Tensor, _: np.ndarray) -> torch.Tensor:
        seen.append(images)
        return horizontal_flip(images)

    change = Change(operation="mirrored", strength=1, unit="", label="", apply=look)
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    prepared = backbone.transform(photograph)[None]
    embedding = room._Embedding(backbone, [change], seed=0, device="cpu")
    with torch.inference_mode():
        plain, mirrored = embedding(prepared).split(16, dim=1)
        torch.testing.assert_close(plain, backbone.model(prepared))
        torch.testing.assert_close(mirrored, backbone.model(horizontal_flip(prepared)))
    levels = seen[0] * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert 0 <= seen[0].min() < 0.2
    assert 0.8 < seen[0].max() <= 1


def test_the_same_seed_finds_the_same_whatever_the_batch_and_the_workers(
    backbone: Backbone, flowers: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = some("crop", "mirrored")
    found = measure(backbone, flowers, asked)
    assert found.photographs == 12
    assert found.species == 3
    assert [one.operation for one in found.moved] == ["crop"] * 5 + ["mirrored"]
    assert measure(backbone, flowers, asked, workers=1) == found
    assert measure(backbone, flowers, asked, seed=1) != found
    monkeypatch.setattr(room, "BATCH", 5)
    for one, other in zip(measure(backbone, flowers, asked).moved, found.moved, strict=True):
        assert one.movement == pytest.approx(other.movement, rel=1e-4)


def test_strengths_of_an_operation_draw_the_same_places(backbone: Backbone, flowers: ShardSet) -> None:
    drawn: list[np.ndarray] = []

    def keep(images: torch.Tensor, uniforms: np.ndarray) -> torch.Tensor:
        drawn.append(uniforms)
        return images

    twice = [Change(operation="none", strength=s, unit="", label="", apply=keep) for s in (1, 2)]
    found = measure(backbone, flowers, twice)
    assert np.array_equal(*drawn)
    assert len(np.unique(drawn[0])) == drawn[0].size == 60
    assert [one.movement for one in found.moved] == [0, 0]


def test_color_is_what_moves_where_color_tells_species_apart(backbone: Backbone, flowers: ShardSet) -> None:
    found = {one.operation: one for one in measure(backbone, flowers, some("grayscale", "mirrored")).moved}
    assert found["grayscale"].movement > 3 * found["mirrored"].movement
    assert found["grayscale"].accuracy < 1 == measure(backbone, flowers, some("mirrored")).accuracy


def test_damaged_photographs_are_left_out(
    backbone: Backbone, foreign_shards: Callable[..., Path], tmp_path: Path
) -> None:
    folder = foreign_shards(shards=2, count=6, width=24, height=24)
    shard = folder / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[512:600] = bytes(88)  # the first photograph's own head
    shard.write_bytes(content)
    shards = open_data(str(folder), tmp_path / "unused", 16)
    assert measure(backbone, shards, some("mirrored")).photographs == 11
