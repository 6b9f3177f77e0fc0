"""A run's few-shot table goes by the probe's own comparisons: what they leave open, draws do not decide."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from umbel.evaluation.fewshot import interval
from umbel.evaluation.probe_rows import ProbeRow
from umbel.evaluation.report_fewshot import fewshot
from umbel.evaluation.report_paired import BY_DRAWS, comparisons_of, in_words, points
from umbel.evaluation.report_words import verdict

OURS, FRESH, COLOR = "pretrained backbone", "untrained backbone", "color histogram"
CLASSES = ("a", "b", "c", "d")


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def row(name: str, mean: float) -> ProbeRow:
    # The same draws move all rows together, so that by draws alone every difference is certain.
    accuracies = (mean + 0.01 * np.array([-1.0, 1.0, -0.5, 0.5])).tolist()
    middle, half = interval(accuracies)
    told = {"mean": middle, "interval": half, "knn": 0.4, "knn_plain": 0.3, "k": 20, "seconds": 0.0, "left_out": []}
    return ProbeRow(name=name, shots=5, draws=4, accuracies=accuracies, **told)  # type: ignore[arg-type]


def compared(second: str, value: float, low: float, high: float, measure: str = "5-shot accuracy") -> dict[str, Any]:
    difference = {"value": value, "low": low, "high": high}
    return {"first": OURS, "second": second, "measure": measure, "difference": difference, "verdict": ""}


def probed(rows: list[ProbeRow], *comparisons: dict[str, Any], **details: Any) -> dict[str, Any]:
    return {"rows": [dataclasses.asdict(one) | details for one in rows], "comparisons": list(comparisons)}


def best(rows: list[ProbeRow], told: dict[str, Any]) -> list[str]:
    return re.findall(r'<th scope="row">([^<]*)</th><td><strong>', fewshot(rows, told, CLASSES))


ROWS = [row(OURS, 0.60), row(COLOR, 0.58), row(FRESH, 0.30)]
OPEN = compared(COLOR, 0.02, -0.01, 0.05)
CLEAR = compared(COLOR, 0.02, 0.01, 0.04)
FAR = compared(FRESH, 0.30, 0.25, 0.36)


def test_best_needs_an_interval_that_leaves_out_zero() -> None:
    assert best(ROWS, probed(ROWS, OPEN, FAR)) == []
    assert best(ROWS, probed(ROWS, CLEAR, FAR)) == [OURS]
    # Against each other, and of this measure.
    assert best(ROWS, probed(ROWS, CLEAR)) == []
    assert best(ROWS, probed(ROWS, compared(COLOR, 0.02, 0.01, 0.04, "20-NN accuracy"), FAR)) == []
    assert best(ROWS, probed(ROWS, compared(COLOR, 0.02, 0.01, 0.04, "1-shot accuracy"), FAR)) == []


def test_without_comparisons_draws_decide_and_the_caption_says_so() -> None:
    older = {"rows": probed(ROWS)["rows"]}
    assert best(ROWS, older) == [OURS]
    assert comparisons_of(older, 5) is BY_DRAWS
    assert "over the draws alone" in fewshot(ROWS, older, CLASSES)
    assert "Paired differences" not in fewshot(ROWS, older, CLASSES)
    newer = fewshot(ROWS, probed(ROWS, OPEN, FAR), CLASSES)
    assert "over the draws alone" not in newer
    assert "over draws and queries" in newer


def words(rows: list[ProbeRow], *comparisons: dict[str, Any]) -> str:
    return plain(verdict(rows, comparisons_of({"comparisons": list(comparisons)}, 5)))


def test_the_verdict_goes_by_the_same_intervals() -> None:
    told = words(ROWS, OPEN, FAR)
    assert told.startswith("The 5-shot table is undecided: the pretrained backbone reaches 60.0 ±")
    assert "2.0 ± 3.0 percentage points apart, and no difference can be told." in told
    assert "Pretraining itself adds 30.0 (25.0 to 36.0) percentage points" in told
    assert words(ROWS, CLEAR, FAR).startswith("The pretrained backbone wins the 5-shot table")


def test_a_baseline_wins_by_the_comparison_turned_around() -> None:
    rows = [row(OURS, 0.5), row(COLOR, 0.6)]
    told = words(rows, compared(COLOR, -0.1, -0.15, -0.06))
    assert told.startswith("The color histogram wins the 5-shot table")
    assert "10.0 (6.0 to 15.0) percentage points more than the pretrained backbone" in told
    assert best(rows, probed(rows, compared(COLOR, -0.1, -0.15, -0.06))) == [COLOR]


def test_rows_that_were_not_compared_are_not_told_apart() -> None:
    rows = [row(OURS, 0.3), row(COLOR, 0.6), row(FRESH, 0.5)]
    told = words(rows, compared(COLOR, -0.3, -0.4, -0.2), compared(FRESH, -0.2, -0.3, 0.1))
    assert "10.0 percentage points apart, and no difference can be told, as the two were not compared" in told
    assert "The pretrained backbone reaches only 30.0 ±" in told
    assert "Whether pretraining helped at all is undecided" in told
    near = words(rows, compared(COLOR, -0.3, -0.4, 0.2))
    assert "reaches only" not in near
    assert "no difference from the best can be told" in near


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ((0.02, -0.01, 0.05), "+2.0 ± 3.0: no difference can be told"),
        ((-0.02, -0.05, -0.01), "\N{MINUS SIGN}2.0 (\N{MINUS SIGN}5.0 to \N{MINUS SIGN}1.0): worse"),
        ((0.02, 0.01, 0.04), "+2.0 (+1.0 to +4.0): better"),
        ((0.02, 0.0, 0.04), "+2.0 ± 2.0: no difference can be told"),
    ],
)
def test_a_difference_in_words(found: tuple[float, float, float], told: str) -> None:
    assert plain(in_words(found)) == told
    assert not points((0.02, 0.01, 0.04), signed=False).startswith("+")


def test_all_comparisons_stand_in_a_table() -> None:
    html = plain(fewshot(ROWS, probed(ROWS, OPEN, compared(COLOR, 0.1, 0.05, 0.15, "20-NN accuracy"), FAR), CLASSES))
    assert 'Pretrained backbone minus</th><th scope="col">5-shot accuracy</th><th scope="col">20-NN' in html
    line = "<td>+2.0 ± 3.0: no difference can be told</td><td>+10.0 ± 5.0: better</td>"
    assert f'<th scope="row">{COLOR}</th>{line}' in html
    assert f'<th scope="row">{FRESH}</th><td>+30.0 (+25.0 to +36.0): better</td><td>–</td>' in html


def test_shots_and_groups_are_shown_where_they_were_measured() -> None:
    def at(shots: int, value: float) -> dict[str, Any]:
        return {"shots": shots, "micro": {"value": value, "low": value - 0.01, "high": value + 0.01}}

    groups = [
        {"name": name, "classes": 1, "count": 9, "accuracy": {"value": value, "low": value - 0.1, "high": value + 0.1}}
        for name, value in (("head", 0.7), ("middle", 0.5), ("tail", 0.2))
    ]
    micro = {"value": 0.41, "low": 0.37, "high": 0.46}
    nearest = {"weighted": {"micro": micro, "frequency": groups, "organ": [], "taxonomy": None}, "plain": {}}
    one = plain(fewshot(ROWS, probed(ROWS, centroid=[at(5, 0.6)], nearest=nearest), CLASSES))
    assert "Over shots" not in one
    assert "<td>70.0 ± 10.0 %</td><td>50.0 ± 10.0 %</td><td>20.0 ± 10.0 %</td>" in one
    assert "41.0 % (37.0 to 46.0)" in one
    several = plain(fewshot(ROWS, probed(ROWS, centroid=[at(5, 0.6), at(1, 0.25)]), CLASSES))
    assert "<h3>Over shots</h3>" in several
    assert "<td>25.0 ± 1.0 %</td>" in several
    assert "Guessing reaches 25.0 %" in several
    assert "How frequent" not in several
