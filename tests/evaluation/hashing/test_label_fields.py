"""Labels that a photograph's JSON tells beside its class."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from umbel.data.index import open_shards
from umbel.evaluation.hashing import label_fields as module
from umbel.evaluation.hashing.label_fields import labels_with_fields
from umbel.run import UserError


@pytest.fixture
def shards(tmp_path: Path, jpeg: Callable[..., bytes], write_tar: Callable[..., Path]) -> Path:
    records = [
        {"genus": "Rosa", "beside": ["Salvia", 3]},
        {"genus": " Rosa ", "beside": []},
        {"genus": "Salvia", "beside": "Salvia"},
        {"genus": None, "beside": {"not": "a label"}},
        [],
    ]
    members: dict[str, bytes] = {}
    for number, record in enumerate(records):
        members |= {f"p{number}.jpg": jpeg(number), f"p{number}.json": json.dumps(record).encode()}
        if number != 1:
            members[f"p{number}.cls"] = b"%d" % (number % 2)
    write_tar(tmp_path / "train-000000.tar", members)
    return tmp_path


def test_classes_come_first_and_then_every_value_of_every_field(shards: Path) -> None:
    found = labels_with_fields(open_shards(str(shards)), np.arange(5), ("genus", "beside"))
    # classes 0 and 1; beside: 3, Salvia; genus: Rosa, Salvia
    want = [
        [1, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 1, 0],
        [1, 0, 0, 1, 0, 1],
        [0, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
    ]
    assert found.tolist() == np.array(want, dtype=bool).tolist()


def test_rows_are_the_samples_asked_for(shards: Path) -> None:
    found = labels_with_fields(open_shards(str(shards)), np.array([2, 1]), ("genus",))
    assert found.tolist() == [[True, False, True], [False, True, False]]


def test_a_field_that_nobody_tells_is_refused(shards: Path) -> None:
    with pytest.raises(UserError, match="no photograph tells 'family' in its JSON"):
        labels_with_fields(open_shards(str(shards)), np.arange(5), ("genus", "family"))


def test_one_value_is_one_label_however_it_is_written(
    tmp_path: Path, jpeg: Callable[..., bytes], write_tar: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = ('{"a": [3, 3.0]}', '{"a": ["3", NaN]}', '{"a": "e\u0301"}', '{"a": "\u00e9"}', '{"a": 0.5}')
    members = {
        f"p{number}.{end}": content
        for number, record in enumerate(records)
        for end, content in (("jpg", jpeg(number)), ("json", record.encode()))
    }
    write_tar(tmp_path / "train-000000.tar", members)
    shards = open_shards(str(tmp_path))
    found = labels_with_fields(shards, np.arange(5), ("a",))
    assert found.astype(int).tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0]]
    monkeypatch.setattr(module, "MOST", 14)
    with pytest.raises(UserError, match="a tell 3 different values, too many for 5 photographs"):
        labels_with_fields(shards, np.arange(5), ("a",))
