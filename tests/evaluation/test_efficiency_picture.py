"""Accuracy against multiply-adds: which results are compared, and a picture that names each."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from umbel.evaluation.chart import ON_PAPER, chart_for_page
from umbel.evaluation.efficiency_picture import HEIGHT, WIDTH, CostRow, in_words, paint, rows_beside

ROWS = [
    CostRow(name="vit_small", multiply_adds=4_600_000_000, parameters=22_000_000, accuracy=0.71, interval=0.01),
    CostRow(name="convnext_atto", multiply_adds=550_000_000, parameters=3_400_000, accuracy=0.6, interval=0.012),
    CostRow(name="vit_tiny", multiply_adds=1_250_000_000, parameters=5_500_000, accuracy=0.58, interval=0.02),
]


def result(**changed: Any) -> dict[str, Any]:
    told = {
        "format": 1,
        "command": "probe",
        "protocol": {"shots": 5, "draws": 50, "seed": 0, "k": 20},
        "photographs": {"support": 24, "queries": 12},
        "rows": [{"name": "pretrained backbone", "mean": 0.5, "interval": 0.1}, {"name": "raw pixels", "mean": 0.2}],
        "classes": ["aconitum", "bellis"],
        "efficiency": {"multiply_adds": 1000, "parameters": 20},
    }
    return told | changed


def test_results_of_the_same_photographs_and_protocol_are_compared(tmp_path: Path) -> None:
    files = {
        "b.json": result(),
        "a.json": result(efficiency={"multiply_adds": 500, "parameters": 10}),
        "other_shots.json": result(protocol={"shots": 1, "draws": 50, "seed": 0, "k": 20}),
        "other_photographs.json": result(photographs={"support": 24, "queries": 13}),
        "other_classes.json": result(classes=["aconitum", "crocus"]),
        "without_costs.json": {key: value for key, value in result().items() if key != "efficiency"},
        "of_another_command.json": result(command="hash"),
        "list.json": [1],
    }
    for name, told in files.items():
        (tmp_path / name).write_text(json.dumps(told))
    (tmp_path / "broken.json").write_text("{")
    assert rows_beside(tmp_path / "b.json") == [
        CostRow(name="a", multiply_adds=500, parameters=10, accuracy=0.5, interval=0.1),
        CostRow(name="b", multiply_adds=1000, parameters=20, accuracy=0.5, interval=0.1),
    ]
    assert rows_beside(tmp_path / "without_costs.json") == []


def test_every_backbone_stands_at_its_cost_and_accuracy() -> None:
    figure = Figure(figsize=(WIDTH, HEIGHT))
    paint(ROWS, "5-shot")(figure, ON_PAPER)
    (axes,) = figure.axes
    points = np.array(axes.collections[-1].get_offsets())
    assert points.tolist() == [[0.55, pytest.approx(60)], [1.25, pytest.approx(58)], [4.6, pytest.approx(71)]]
    areas = axes.collections[-1].get_sizes()  # type: ignore[attr-defined]
    assert areas[2] / areas[1] == pytest.approx(22 / 5.5)
    # The best that so many multiply-adds or fewer reach.
    assert axes.lines[0].get_ydata() == pytest.approx([60, 60, 71])  # type: ignore[comparison-overlap]
    assert axes.get_xscale() == "log"
    low, high = axes.get_ylim()
    assert 0 <= low < 56
    assert high > 72


def test_names_cover_neither_points_nor_each_other() -> None:
    near = [
        CostRow(name=f"backbone_{n}", multiply_adds=10**9 + 10**7 * n, parameters=n * 10**6, accuracy=a, interval=0.01)
        for n, a in ((1, 0.5), (2, 0.51), (3, 0.6), (4, 0.5))
    ]
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    paint([*ROWS, *near], "5-shot")(figure, ON_PAPER)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    names = [text for text in axes.texts if text.get_text()]
    assert len(names) == 7
    boxes = [name.get_window_extent() for name in names]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    points = axes.transData.transform(np.array(axes.collections[-1].get_offsets()))
    assert not [1 for box in boxes for point in points if box.contains(*point)]
    assert all(box.x1 < figure.bbox.x1 and box.x0 > 0 for box in boxes)


def test_the_picture_on_the_page_names_them() -> None:
    markup = chart_for_page(paint(ROWS, "5-shot nearest centroid"), in_words(ROWS), width=WIDTH, height=HEIGHT)
    for words in ("convnext_atto, 3.4 M", "vit_tiny, 5.5 M", "vit_small, 22 M", "5-shot nearest centroid"):
        assert f">{words}<" in markup
    assert 'aria-label="Accuracy against multiply-adds: convnext_atto 0.55 GMAC 60.0 %, vit_tiny 1.25' in markup
