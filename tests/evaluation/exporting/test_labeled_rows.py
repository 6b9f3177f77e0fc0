"""Which photographs make classes, calibrate and measure: no photograph twice, and every split for what it is for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from umbel.data.index import open_shards
from umbel.evaluation.exporting.labeled_rows import choose_rows, take
from umbel.run import UserError

Make = Callable[..., Path]


def test_splits_are_used_for_what_they_are(make_shards: Make) -> None:
    shards = open_shards(str(make_shards({"train": 8, "val": 8, "test": 6})))
    rows = choose_rows(shards, per_class=100)
    for chosen, split, count in ((rows.support, "train", 32), (rows.validation, "val", 32), (rows.test, "test", 24)):
        assert len(chosen) == count
        assert all(shards.key(row).startswith(split) for row in chosen)


def test_without_val_a_fifth_of_every_class_is_held_out(make_shards: Make, capsys: pytest.CaptureFixture[str]) -> None:
    shards = open_shards(str(make_shards({"train": 30, "test": 2})))
    rows = choose_rows(shards, per_class=100)
    assert not set(rows.support) & set(rows.validation)
    assert len(rows.support) + len(rows.validation) == 120
    labels = shards.members["label"]
    assert np.bincount(labels[rows.validation]).tolist() == [6] * 4
    assert all(shards.key(row).startswith("test") for row in rows.test)
    assert "held out of train" in capsys.readouterr().out


def test_test_photographs_alone_make_classes_and_measure_nothing(make_shards: Make) -> None:
    rows = choose_rows(open_shards(str(make_shards({"test": 30}))), per_class=100)
    assert (len(rows.support), len(rows.validation), len(rows.test)) == (96, 24, 0)


def test_no_class_has_more_than_asked(make_shards: Make) -> None:
    shards = open_shards(str(make_shards({"train": 8, "val": 8, "test": 6})))
    rows = choose_rows(shards, per_class=5)
    labels = shards.members["label"]
    for chosen in (rows.support, rows.validation, rows.test):
        assert np.bincount(labels[chosen]).tolist() == [5] * 4
        assert (np.diff(chosen) > 0).all()
    part = take(shards, rows.validation)
    assert [part.key(row) for row in range(len(part))] == [shards.key(row) for row in rows.validation]


def test_what_cannot_make_a_bundle_is_refused(make_shards: Make) -> None:
    with pytest.raises(UserError, match="has no labels"):
        choose_rows(open_shards(str(make_shards({"train": 4}, labels=False))), per_class=9)
    with pytest.raises(UserError, match=r"4 labeled photographs to calibrate the confidence by, fewer than 20"):
        choose_rows(open_shards(str(make_shards({"train": 4}))), per_class=9)
