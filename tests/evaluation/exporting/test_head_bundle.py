"""What the card of a bundle with a run's own head claims: what was measured, and no more."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umbel.evaluation.exporting.classifier_head import ClassifierHead, head_of
from umbel.evaluation.exporting.head_bundle import head_section, measured_figures

HEAD = ClassifierHead(
    weight=np.eye(2, 3, dtype=np.float32),
    bias=np.zeros(2, dtype=np.float32),
    classes=("rosa", "viola"),
    temperature=0.5,
    threshold=0.6,
    measured={"step": 12},
)


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def distilled(**splits: dict[str, Any]) -> dict[str, Any]:
    return {"format": 1, "command": "distill", "step": 12, "splits": splits}


def tuned(**parts: dict[str, Any]) -> dict[str, Any]:
    return {"format": 1, "step": 12, "validated_on": "split val"} | parts


VAL = {"photographs": 9, "student": {"top1": figure(0.8)}, "teacher": {"top1": figure(0.9)}}
TEST = {"photographs": 30, "student": {"top1": figure(0.7)}, "teacher": None}


@pytest.mark.parametrize(
    ("result", "photographs", "where", "right"),
    [
        (distilled(val=VAL, test=TEST), 30, "split test", 0.7),
        (distilled(val=VAL), 9, "split val", 0.8),
        (tuned(val={"photographs": 9, "top1": figure(0.8)}), 9, "the validation photographs (split val)", 0.8),
        (tuned(val={}, test={"photographs": 30, "top1": figure(0.6)}), 30, "split test", 0.6),
    ],
)
def test_figures_are_those_of_the_runs_result(
    result: dict[str, Any], photographs: int, where: str, right: float, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result))
    told = measured_figures(tmp_path, HEAD)
    assert told == {"measured": photographs, "measured_on": where, "figures": {"right": figure(right)}}
    # Of other weights nothing is told.
    assert measured_figures(tmp_path, dataclasses.replace(HEAD, measured={"step": 8}))["figures"] == {}


def test_nothing_is_called_calibrated_that_no_photographs_validated(tmp_path: Path) -> None:
    bare = dataclasses.replace(HEAD, temperature=1.0, threshold=0.0, measured={})
    (tmp_path / "result.json").write_text(json.dumps(distilled(test=TEST)))
    told = {"classes": HEAD.classes, "temperature": 1.0, "threshold": 0.0, "calibrated": False}
    lines = head_section(told | measured_figures(tmp_path, bare)).lines
    assert "No photographs validated it: the confidence is not calibrated" in lines[0]
    assert "- right: 70.0 % (60.0 to 80.0)" in lines
    (tmp_path / "result.json").write_text(json.dumps(tuned(val={"photographs": 9, "top1": figure(0.8)})))
    assert measured_figures(tmp_path, bare)["figures"] == {}
    lines = head_section(told | {"temperature": 0.5, "threshold": 0.6, "calibrated": True, "figures": {}}).lines
    assert "calibrated by a temperature of 0.5. Below a confidence of 0.600" in lines[0]


def test_a_head_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "backbone").mkdir()
    HEAD.write(tmp_path)
    dataclasses.replace(HEAD, temperature=2.0).write(tmp_path)
    found = head_of(tmp_path / "backbone")
    assert found is not None
    assert found.temperature == 2.0
    np.testing.assert_array_equal(found.weight, HEAD.weight)
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == ["head.json", "head.safetensors"]
