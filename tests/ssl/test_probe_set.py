"""What the teacher is probed on: which photographs, how often, how prepared, and what is refused before training."""

import dataclasses
from collections import Counter
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
from umbel.run import UserError
from umbel.ssl.probe_set import ProbeConfig, ProbeSet, open_probe

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=1, heads=2, patch=8)
CARD = ModelCard(
    architecture=TINY.name,
    arguments=model_arguments(TINY, 32),
    image_size=32,
    mean=(0.4, 0.5, 0.3),
    std=(0.2, 0.25, 0.3),
    num_features=32,
)
Foreign = Callable[..., Path]


def opened(data: Path, tmp_path: Path, **settings: int) -> ProbeSet:
    probe = open_probe(ProbeConfig(data=str(data), **settings), tmp_path / "probe-shards", CARD)  # type: ignore[arg-type]
    assert probe is not None
    return probe


def counts(probe: ProbeSet) -> dict[str, Counter[int]]:
    """Split -> class -> photographs."""
    found: dict[str, Counter[int]] = {}
    for row in probe.shards.members:
        found.setdefault(probe.shards.shards[row["shard"]].split, Counter())[int(row["label"])] += 1
    return found


def test_at_most_so_many_photographs_of_a_class_are_taken_of_each_side(foreign_shards: Foreign, tmp_path: Path) -> None:
    data = foreign_shards(shards=2, count=9)  # 6 of each of 3 classes
    foreign_shards(shards=1, count=7, split="test")  # 3, 2 and 2
    assert counts(opened(data, tmp_path, shots=1)) == {
        "train": {0: 6, 1: 6, 2: 6},
        "test": {0: 3, 1: 2, 2: 2},
    }
    probe = opened(data, tmp_path, shots=1, limit=2)
    assert counts(probe) == {"train": {0: 2, 1: 2, 2: 2}, "test": {0: 2, 1: 2, 2: 2}}
    assert probe.classes == 3
    # They are drawn from all, and the same every time.
    again, keys = opened(data, tmp_path, shots=1, limit=2), list(map(probe.shards.key, range(12)))
    assert list(map(again.shards.key, range(12))) == keys
    whole = list(map(open_shards(str(data)).key, range(25)))
    assert keys == [key for key in whole if key in keys]
    assert keys[:3] != [key for key in whole if key.startswith("test")][:3] or keys[6:] != whole[7:13]


def test_only_labeled_photographs_of_train_val_and_test_are_taken(
    foreign_shards: Foreign, write_tar: Callable[..., Path], jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    data = foreign_shards(shards=1, count=9)
    foreign_shards(shards=1, count=9, split="unlabeled")
    write_tar(data / "test-000000.tar", {"test_0.jpg": jpeg(1)})
    # The one photograph of test has no label: the rest of the others are the queries.
    assert counts(opened(data, tmp_path, shots=1)) == {"train": {0: 3, 1: 3, 2: 3}}
    # So are they where there is nothing but test.
    alone = opened(foreign_shards(shards=1, count=6, split="test", folder="alone"), tmp_path, shots=1)
    assert (counts(alone), alone.classes) == ({"test": {0: 2, 1: 2, 2: 2}}, 3)


def test_classes_that_are_too_small_are_counted(
    foreign_shards: Foreign, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = opened(foreign_shards(shards=1, count=8), tmp_path, shots=2)  # 3, 3 and 2: one query is needed
    assert probe.classes == 2
    assert "2-shot accuracy on 8 photographs of 2 classes" in capsys.readouterr().out


def test_photographs_are_prepared_as_the_checkpoint_will_prepare_them(foreign_shards: Foreign, tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_timm_folder(tmp_path / "backbone", build(TINY, 32).state_dict(), CARD)
    probe, backbone = opened(foreign_shards(), tmp_path, shots=1), load(tmp_path / "backbone")
    assert str(probe.prepare) == str(backbone.transform)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    assert torch.equal(probe.prepare(image), backbone.transform(image))


def test_a_folder_of_photographs_becomes_shards(photographs: Callable[..., Path], tmp_path: Path) -> None:
    data = photographs([f"{name}/{number}.jpg" for name in ("rosa", "salvia") for number in range(3)])
    probe = opened(data, tmp_path, shots=1)
    assert counts(probe) == {"train": {0: 3, 1: 3}}
    assert Path(probe.shards.folder) == tmp_path / "probe-shards"
    assert [path.name for path in data.iterdir()] in (["rosa", "salvia"], ["salvia", "rosa"])


def test_nothing_is_opened_unasked_and_on_other_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_probe(ProbeConfig(), tmp_path, CARD) is None
    monkeypatch.setenv("RANK", "1")
    assert open_probe(ProbeConfig(data="/there/is/none"), tmp_path, CARD) is None


def test_what_cannot_be_probed_is_refused(
    foreign_shards: Foreign,
    photographs: Callable[..., Path],
    write_tar: Callable[..., Path],
    jpeg: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="does not exist: give a folder of photographs or of shards"):
        opened(tmp_path / "gone", tmp_path)
    with pytest.raises(UserError, match=r"0 of 3 classes have images enough for 3 shots; 2 must have\."):
        opened(foreign_shards(shards=1, count=9), tmp_path, shots=3)
    unlabeled = write_tar(tmp_path / "plain" / "train-000000.tar", {"a.jpg": jpeg(0), "b.jpg": jpeg(1)}).parent
    with pytest.raises(UserError, match=r"plain: the photographs have no labels; give class folders"):
        opened(unlabeled, tmp_path)
    with pytest.raises(UserError, match="no shard is of split train or val or test; there are: unlabeled"):
        opened(foreign_shards(split="unlabeled", folder="u"), tmp_path)
    # Classes that are only asked for make no query.
    data = write_tar(tmp_path / "apart" / "test-000000.tar", {"q.jpg": jpeg(9), "q.cls": b"7"}).parent
    foreign_shards(shards=1, count=9, folder="apart")
    with pytest.raises(UserError, match="no query is of a class in the support"):
        opened(data, tmp_path, shots=2)


def test_a_probe_is_due_once_an_epoch_and_twenty_times_at_most() -> None:
    config = ProbeConfig(data="d")
    assert config.steps(100, 600) == 100
    assert config.steps(100, 10_000) == 500
    assert config.steps(100, 2001) == 101
    assert config.steps(100, 30) == 100  # in less than an epoch only before and after
    assert dataclasses.replace(config, every_epochs=0.25).steps(100, 600) == 25
    assert dataclasses.replace(config, every_epochs=0.001).steps(100, 600) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_epochs": -1.0}, "probe.every_epochs must be a number from 0, not -1"),
        ({"every_epochs": float("inf")}, "probe.every_epochs must be a number from 0, not inf"),
        ({"shots": 0}, "probe.shots must be at least 1, not 0"),
        ({"draws": 1}, "probe.draws must be at least 2, not 1"),
        ({"shots": 7, "limit": 7}, "probe.limit must be at least 8, not 7"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbeConfig(**settings)  # type: ignore[arg-type]
