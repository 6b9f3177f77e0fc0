"""Features without learning, by hand and by numpy; the untrained backbone differs in its weights only."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from umbel.backbones import load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import open_shards
from umbel.data.reader import ShardReader
from umbel.evaluation.baselines import baseline_embeddings, color_histogram, raw_pixels, untrained
from umbel.evaluation.knn import vote

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8)


@pytest.fixture
def backbone_folder(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    card = ModelCard(
        architecture=TINY.name,
        arguments=model_arguments(TINY, 16),
        image_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        num_features=16,
    )
    write_timm_folder(tmp_path / "backbone", build(TINY, 16).state_dict(), card)
    return tmp_path / "backbone"


def test_the_histogram_by_hand() -> None:
    photograph = torch.zeros(3, 2, 2, dtype=torch.uint8)
    photograph[:, 0, 0] = torch.tensor([255, 32, 31])  # cells 7, 1, 0
    photograph[:, 1, 1] = torch.tensor([224, 63, 0])  # the same
    photograph[:, 0, 1] = torch.tensor([0, 0, 64])  # cells 0, 0, 2
    histogram = color_histogram(photograph)
    assert histogram.shape == (512,)
    assert {int(cell): float(histogram[cell]) for cell in histogram.nonzero()} == pytest.approx(
        {0: 0.5, 2: 0.5, 7 * 64 + 8: math.sqrt(0.5)}
    )


def test_the_histogram_equals_numpys() -> None:
    photograph = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 30, 50), dtype=np.uint8))
    want, _ = np.histogramdd(photograph.flatten(1).T.numpy(), bins=8, range=[(0, 256)] * 3)
    np.testing.assert_allclose(color_histogram(photograph), np.sqrt(want.ravel() / 1500), rtol=1e-6)


def test_raw_pixels_are_means_of_what_they_cover() -> None:
    small = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8))
    pixels = raw_pixels(small)
    assert pixels.shape == (3072,)
    assert torch.equal(pixels, small.flatten() / 255)
    flat = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 100, 70)
    assert torch.equal(raw_pixels(flat).unflatten(0, (3, -1))[:, 0], torch.tensor([10, 20, 30]) / 255)
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(3, 96, 48)
    assert (raw_pixels(stripes) - 0.5).abs().max() < 0.1  # one column in three would give 0 or 1


def test_baselines_of_shards_are_those_of_their_photographs(
    made_shards: Callable[..., Path], jpeg: Callable[..., bytes]
) -> None:
    shards = open_shards(str(made_shards()))
    got = baseline_embeddings(shards, batch=4)
    assert list(got) == ["color histogram", "raw pixels"]
    assert [got[name].features.shape for name in got] == [(6, 512), (6, 3072)]
    assert all(e.keys == tuple(map(shards.key, range(6))) for e in got.values())
    assert [e.provenance["features"] for e in got.values()] == list(got)
    reader = ShardReader(shards)
    for row in range(6):
        image = np.asarray(Image.open(io.BytesIO(reader.read(row, "jpg")))).copy()
        photograph = torch.from_numpy(image).permute(2, 0, 1)
        np.testing.assert_array_equal(got["color histogram"].features[row], color_histogram(photograph))
        np.testing.assert_array_equal(got["raw pixels"].features[row], raw_pixels(photograph))


def test_the_untrained_backbone_differs_in_its_weights_only(backbone_folder: Path) -> None:
    backbone = load(backbone_folder)
    state = torch.get_rng_state()
    fresh, again, other = (untrained(backbone, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert (fresh.card, fresh.transform, fresh.dim) == (backbone.card, backbone.transform, 16)
    assert fresh.source == "untrained vit_tiny_patch16_224"
    assert not fresh.model.training
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        features = [b.model(images) for b in (backbone, fresh, again, other)]
    assert {k: v.shape for k, v in fresh.model.state_dict().items()} == {
        k: v.shape for k, v in backbone.model.state_dict().items()
    }
    assert torch.equal(features[1], features[2])
    assert not torch.allclose(features[0], features[1])
    assert not torch.allclose(features[1], features[3])


@pytest.mark.slow
def test_the_floors_on_real_flowers(shared_data: Path) -> None:
    """Nearest neighbor, train to test, as the data's README tells them: pixels 18.4 %, color 42.6 %."""
    shards = open_shards(str(shared_data / "flowers")).select(("train", "test"))
    accuracies = {}
    for name, embeddings in baseline_embeddings(shards).items():
        train, test = embeddings.of("train"), embeddings.of("test")
        votes = vote(train.features, train.label, queries=test.features, k=1)
        accuracies[name] = round(100 * votes.accuracy(test.label)[0], 1)
    assert accuracies["color histogram"] == pytest.approx(42.6, abs=0.5)
    assert accuracies["raw pixels"] == pytest.approx(18.4, abs=0.5)
