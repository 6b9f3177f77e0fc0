"""Splits of labeled shards, weights and soft labels of their photographs, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umbel.data.index import open_shards
from umbel.data.shard_set import ShardSet
from umbel.data.training import TrainingDataset
from umbel.run import UserError
from umbel.ssl.crowd_labels import LabelsConfig, read_soft, read_told, soft_targets, weights_of
from umbel.ssl.finetune_data import divide, take_rows

Make = Callable[..., ShardSet]


@pytest.fixture
def make(tmp_path: Path, write_tar: Callable[..., Path], jpeg: Callable[..., bytes]) -> Make:
    """Shards by split: a list of labels (None: none), with the JSON of each photograph of train."""

    def write(told: list[dict[str, Any]] | None = None, **splits: list[int | None]) -> ShardSet:
        folder = tmp_path / "shards"
        for split, labels in splits.items():
            for shard in range(0, len(labels), 4):
                members: dict[str, bytes] = {}
                for row, label in enumerate(labels[shard : shard + 4], start=shard):
                    members[f"{split}{row}.jpg"] = jpeg(row)
                    if label is not None:
                        members[f"{split}{row}.cls"] = str(label).encode()
                    if told is not None and split == "train":
                        members[f"{split}{row}.json"] = json.dumps(told[row]).encode()
                write_tar(folder / f"{split}-{shard // 4:06d}.tar", members)
        (folder / "classes.txt").write_text("rosa\nsalvia\nviola\n")
        return open_shards(str(folder))

    return write


def divided(shards: ShardSet, share: float = 0.25) -> Any:
    return divide(shards, "DATA", share=share, seed=0)


def test_splits_are_taken_as_they_are(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    found = divided(make(train=[2, 0, None, 2, 0, 2], val=[0, 1, 2], test=[2, 1, 0]))
    assert found.classes == ("rosa", "viola")  # nothing of salvia is learned
    assert [found.train.shards.key(n) for n in range(5)] == ["train0", "train1", "train3", "train4", "train5"]
    assert found.train.columns.tolist() == [1, 0, 1, 0, 1]
    assert found.validation.columns.tolist() == [0, 1]
    assert found.test.columns.tolist() == [1, 0]
    said = capsys.readouterr().out
    assert "1 photographs of train have no label" in said
    assert "1 photographs of val are of classes that train has not, and are left out." in said
    assert "1 photographs of test are of classes that train has not, and are left out." in said
    assert "2 classes: 5 photographs to learn from (2 to 3 a class), 2 to validate on, 2 to test on." in said


def test_without_a_validation_split_a_part_of_every_class_is_held_out(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    found = divided(make(train=[0, 1, 2] * 8))
    assert "18 photographs to learn from (6 to 6 a class), 6 to validate on" in capsys.readouterr().out
    assert found.test is None
    assert np.bincount(found.validation.columns).tolist() == [2, 2, 2]
    assert np.bincount(found.train.columns).tolist() == [6, 6, 6]
    keys = [part.shards.key(n) for part in (found.train, found.validation) for n in range(len(part.shards))]
    assert len(set(keys)) == 24
    assert found.words == "25% of every class, held out of train"


def test_a_validation_split_of_foreign_classes_is_told_from_none(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    found = divided(make(train=[0, 2] * 8, val=[1, 1, 1]))
    assert np.bincount(found.validation.columns).tolist() == [2, 2]
    said = capsys.readouterr().out
    assert "3 photographs of val are of classes that train has not" in said
    assert "nothing is left of split val: 25% of every class, held out of train (4 photographs), takes" in said


def test_rows_that_are_taken_can_be_trained_on(make: Make) -> None:
    shards = make(train=[0, 1, 2] * 8)
    taken = take_rows(shards, np.array([3, 9, 10, 22]))  # of shards 0, 2, 2 and 5
    assert [shard.count for shard in taken.shards] == [1, 2, 1]
    batch = TrainingDataset(taken, seed=0, canvas=64, window=2).__getitems__(range(4))
    assert sorted(taken.key(n) for n in batch.sample.tolist()) == ["train10", "train22", "train3", "train9"]
    assert [taken.members["label"][n] for n in batch.sample.tolist()] == batch.label.tolist()


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        ({"train": [None, None]}, "DATA has no labels: give class folders, or shards with .cls members"),
        ({"train": [1, 1, 1], "test": [0, 1]}, "DATA has training photographs of one class"),
        ({"train": [0, 0, 1, 2, 2]}, "class 'salvia' has one photograph, and there is no split val"),
        ({"test": [0, 1, 0, 1]}, "DATA has labeled photographs of test alone: fine-tuning learns from split train."),
    ],
)
def test_what_cannot_be_learned_from_is_refused(splits: dict[str, list[int | None]], sentence: str, make: Make) -> None:
    with pytest.raises(UserError, match=sentence):
        divided(make(**splits))


def test_a_single_photograph_is_enough_where_others_validate(make: Make) -> None:
    assert divided(make(train=[0, 0, 1], val=[0, 1])).train.columns.tolist() == [0, 0, 1]


def test_weights_stand_in_the_json(make: Make) -> None:
    told = [{"acc": 0.5}, {"acc": 1.0, "conf": 3}, {}, {"acc": 0.7, "weight": 2}]
    shards = make(told=told, train=[0, 1, 0, 1])
    read = read_told(shards)
    assert read == told
    acc = np.array([0.5, 1.0, 1.0, 0.7])
    np.testing.assert_allclose(weights_of(read, "acc", shards), acc / acc.mean(), rtol=1e-6)
    np.testing.assert_allclose(weights_of(read, "auto", shards), np.array([1, 1, 1, 2]) / 1.25, rtol=1e-6)
    np.testing.assert_allclose(weights_of(read[:2], "auto", shards), np.array([0.5, 1]) / 0.75, rtol=1e-6)
    assert weights_of(read, "none", shards).tolist() == [1.0] * 4
    assert weights_of([{}, {}], "auto", shards).tolist() == [1.0] * 2
    for field, rows, sentence in (
        ("conf", [{}], "no photograph's JSON has it"),
        ("acc", [{"acc": -1}], "sample 'train0': its acc is -1 and not a number from 0"),
        ("acc", [{"acc": "high"}], "its acc is 'high'"),
        ("acc", [{"acc": 0}], "it is 0 for every photograph"),
    ):
        with pytest.raises(UserError, match=sentence):
            weights_of(rows, field, shards)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_soft_labels_are_joined_by_observation(kind: str, make: Make, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rows = [(7, "rosa", 0.6), (7, "salvia", 0.2), (7, "urtica", 0.2), (8, "viola", 1.0), (9, "urtica", 1.0)]
    observation, label, share = (list(column) for column in zip(*rows, strict=True))
    table = pa.table({"observation": observation, "label": label, "share": share})
    buffer = io.BytesIO()
    (pyarrow.csv.write_csv if kind == "csv" else pyarrow.parquet.write_table)(table, buffer)
    folder = tmp_path / "votes"
    folder.mkdir()
    (folder / f"soft.{kind}").write_bytes(buffer.getvalue())
    told = [{"observation_id": 7}, {"observation_id": 9}, {"observation_id": 8.0}, {}]
    shards = make(told=told, train=[0, 1, 2, 0])
    found = soft_targets(read_soft(folder), read_told(shards), shards, ("rosa", "salvia", "viola"))
    assert set(found) == {0, 2}  # of observation 9 no class is known, and its label stands
    assert found[0][0].tolist() == [0, 1]
    np.testing.assert_allclose(found[0][1], [0.75, 0.25])
    assert found[2][0].tolist() == [2]
    with pytest.raises(UserError, match="none of the photographs"):
        soft_targets({"x": {"rosa": 1.0}}, told, shards, ("rosa",))


def test_soft_labels_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such file; `umbel votes aggregate --soft` writes it"):
        read_soft(tmp_path)
    file = tmp_path / "soft.csv"
    file.write_text("observation,label,share\n1,rosa,much\n")
    with pytest.raises(UserError, match="row 1: it needs an observation, a label and a share"):
        read_soft(file)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"smoothing": 1.0}, "labels.smoothing"),
        ({"balance": 2.0}, "labels.balance"),
        ({"weight": "x"}, "labels.weight"),
    ],
)
def test_settings_that_are_none(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        LabelsConfig(**settings)
