"""Stored embeddings: what is saved is read again, splits and rows are taken, damage is told in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from umbel.evaluation.embeddings import Embeddings
from umbel.run import UserError


def make(count: int = 5) -> Embeddings:
    return Embeddings(
        features=np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32),
        label=np.array([0, 1, -1, 1, 0])[:count],
        split=np.array([0, 0, 1, 2, 2])[:count],
        keys=tuple(f"Färberdistel_{number}" for number in range(count)),
        splits=("train", "unlabeled", "test"),
        classes=("rosa", "sálvia"),
        provenance={"backbone": {"source": "folder x", "sha256": "00"}, "left_out": {}},
    )


def same(a: Embeddings, b: Embeddings) -> bool:
    arrays = all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("features", "label", "split"))
    return arrays and (a.keys, a.splits, a.classes, a.provenance) == (b.keys, b.splits, b.classes, b.provenance)


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    make().save(tmp_path / "new" / "e")
    read = Embeddings.load(tmp_path / "new" / "e")
    assert same(read, make())
    assert (read.features.dtype, read.label.dtype, read.split.dtype) == (np.float32, np.int64, np.int64)
    assert json.loads((tmp_path / "new" / "e" / "embeddings.json").read_text())["format"] == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["e"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    make().save(tmp_path / "e")
    with pytest.raises(OSError, match="not empty"):
        make(3).save(tmp_path / "e")
    assert same(Embeddings.load(tmp_path / "e"), make())


def test_splits_are_taken_in_order() -> None:
    got = make().of("test", "train")
    assert got.keys == tuple(f"Färberdistel_{number}" for number in (0, 1, 3, 4))
    assert got.split.tolist() == [0, 0, 2, 2]
    assert got.label.tolist() == [0, 1, 1, 0]
    np.testing.assert_array_equal(got.features, make().features[[0, 1, 3, 4]])
    assert len(make().take(np.array([2]))) == 1
    with pytest.raises(UserError, match=r"no embeddings of split val; there are: train, unlabeled, test\."):
        make().of("val")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "embeddings.json").unlink(), "holds no embeddings"),
        (lambda f: (f / "keys.txt").unlink(), "cannot be read"),
        (lambda f: (f / "keys.txt").write_text("a\nb\n"), "do not fit together"),
        (lambda f: (f / "embeddings.safetensors").write_bytes(b"nothing"), "cannot be read"),
        (lambda f: (f / "embeddings.json").write_text('{"format": 2}'), "reads format 1: upgrade"),
    ],
)
def test_damage_is_told(damage: object, words: str, tmp_path: Path) -> None:
    make().save(tmp_path / "e")
    damage(tmp_path / "e")  # type: ignore[operator]
    with pytest.raises(UserError, match=words):
        Embeddings.load(tmp_path / "e")
