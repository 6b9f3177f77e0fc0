"""Embeddings of views: which views of which photographs, and damaged ones left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from umbel.augment.views import Views, ViewsConfig
from umbel.backbones import Backbone
from umbel.backbones.folder import ModelCard
from umbel.data.batch import to_canvas
from umbel.data.index import open_shards
from umbel.data.training import TrainingDataset
from umbel.evaluation.hashing import PhotographViewsConfig, view_embeddings
from umbel.run import UserError

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


class Flat(nn.Module):
    """A backbone whose features are the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images.flatten(1)


@pytest.fixture
def backbone() -> Backbone:
    card = ModelCard(architecture="flat", arguments={}, image_size=8, mean=MEAN, std=STD, num_features=192)
    return Backbone(model=Flat().train(), transform=lambda x: x, dim=192, patch=None, source="flat", card=card)


Shards = Callable[..., Path]


def settings(**changes: Any) -> PhotographViewsConfig:
    return PhotographViewsConfig(**({"rounds": 2, "batch": 3, "workers": 0} | changes))


def test_every_photographs_views_are_those_of_its_place_in_the_stream(
    backbone: Backbone, foreign_shards: Shards
) -> None:
    shards = open_shards(str(foreign_shards(shards=2, count=4)))
    found, samples = view_embeddings(backbone, shards, seed=5, config=settings())
    assert samples.tolist() == list(range(8))
    assert found.shape == (4, 8, 192)
    config = ViewsConfig(global_size=8, local_views=0, global_area=(0.4, 1.0), policy="plant")
    views = Views(config, seed=5, mean=MEAN, std=STD, device=torch.device("cpu"))
    dataset = TrainingDataset(shards, seed=5, canvas=512, window=1)
    for position in range(8):
        batch = dataset[position]
        canvas, size = to_canvas([batch.canvas[0]])
        for number in range(2):
            images, _ = views(canvas, size, batch.epoch + number, batch.position)
            torch.testing.assert_close(found[2 * number : 2 * number + 2, batch.sample[0]], images.flatten(1))


def test_neither_batch_nor_workers_change_anything(backbone: Backbone, foreign_shards: Shards) -> None:
    shards = open_shards(str(foreign_shards(shards=2, count=4)))
    alone, _ = view_embeddings(backbone, shards, config=settings(batch=1))
    together, _ = view_embeddings(backbone, shards, config=settings(batch=8, workers=1))
    assert torch.equal(alone, together)
    assert not torch.equal(alone, view_embeddings(backbone, shards, seed=1, config=settings())[0])
    assert torch.equal(alone[:2], view_embeddings(backbone, shards, config=settings(rounds=1))[0])


def test_damaged_photographs_are_left_out_and_told(
    backbone: Backbone,
    tmp_path: Path,
    jpeg: Callable[..., bytes],
    write_tar: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    members: dict[str, bytes] = {}
    for n in range(5):
        members |= {f"plant_{n}.jpg": jpeg(n) if n != 2 else b"hello", f"plant_{n}.cls": str(n).encode()}
    write_tar(tmp_path / "train-000000.tar", members)
    found, samples = view_embeddings(backbone, open_shards(str(tmp_path)), config=settings())
    assert found.shape == (4, 4, 192)
    assert samples.tolist() == [0, 1, 3, 4]
    # No row is another's filled slot.
    assert len({row.numpy().tobytes() for row in found[0]}) == 4
    out = capsys.readouterr().out
    assert "left out: plant_2: it is not a JPEG." in out
    assert "1 of 5 photographs" in out


def test_nothing_but_damaged_photographs(backbone: Backbone, tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    write_tar(tmp_path / "train-000000.tar", {"a.jpg": b"hello"})
    with pytest.raises(UserError, match="none of the photographs"):
        view_embeddings(backbone, open_shards(str(tmp_path)), config=settings())


@pytest.mark.parametrize(
    ("change", "words"),
    [({"rounds": 0}, "photographs.rounds"), ({"area": (0.5, 0.4)}, "area"), ({"policy": "moss"}, "policy")],
)
def test_impossible_settings_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**change)
