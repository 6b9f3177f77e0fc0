"""Labels and weights of the photographs that a student learns from."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from umbel.data.index import open_shards
from umbel.ssl.crowd_labels import LabelsConfig
from umbel.ssl.distillation.config import DistillConfig
from umbel.ssl.distillation.photographs import targets_of


def test_those_without_a_label_count_by_their_soft_labels_or_not_at_all(
    tmp_path: Path,
    write_tar: Callable[..., Path],
    jpeg: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Photographs 0 and 1 have labels, 2 has what a crowd voted, 3 has neither."""
    members: dict[str, bytes] = {}
    for row, weight in enumerate((1.0, 4.0, 4.0, 7.0)):
        members |= {f"{row}.jpg": jpeg(row), f"{row}.json": json.dumps({"observation": row, "weight": weight}).encode()}
        if row < 2:
            members[f"{row}.cls"] = str(row).encode()
    write_tar(tmp_path / "shards" / "train-000000.tar", members)
    (tmp_path / "shards" / "classes.txt").write_text("rosa\nviola\n")
    shards = open_shards(str(tmp_path / "shards"))
    (tmp_path / "soft.csv").write_text("observation,label,share\n2,rosa,0.25\n2,viola,0.75\n")
    asked = DistillConfig(teacher="t", data="d", out=tmp_path / "o", labels=LabelsConfig(smoothing=0.0, balance=0.0))
    targets = targets_of(asked, shards, ("rosa", "viola"))
    np.testing.assert_allclose(targets.weight, [0.4, 1.6, 0, 0], atol=1e-6)  # 1 on average
    assert "2 of 4 photographs have no label" in capsys.readouterr().out
    labels = LabelsConfig(smoothing=0.0, balance=0.0, soft=tmp_path / "soft.csv")
    targets = targets_of(
        DistillConfig(teacher="t", data="d", out=tmp_path / "o", labels=labels), shards, shards.classes
    )
    np.testing.assert_allclose(targets.weight, [1 / 3, 4 / 3, 4 / 3, 0], atol=1e-6)
    assert targets.soft is not None
    assert targets.soft.keys() == {2}
    assert "1 of 4 photographs have no label" in capsys.readouterr().out
