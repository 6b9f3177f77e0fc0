"""Measures of answers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from umbel.evaluation.answer_measures import Answers

LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.3, 0.6], [0.2, 0.7, 0.1]]))
FOUND = Answers(logits=LOGITS, truth=np.array([0, 1, 2, 0]))


def test_accuracies_confidence_and_loss() -> None:
    assert FOUND.right.tolist() == [True, False, True, False]
    assert FOUND.score() == pytest.approx((0.5 + 0 + 1) / 3)
    np.testing.assert_allclose(FOUND.confidence(), [0.7, 0.5, 0.6, 0.7])
    assert FOUND.loss() == pytest.approx(-np.log([0.7, 0.4, 0.6, 0.2]).mean())
    squared = np.array([0.49, 0.25, 0.36, 0.49]) / [0.54, 0.42, 0.46, 0.54]
    np.testing.assert_allclose(FOUND.confidence(0.5), squared)


def test_measures() -> None:
    found = FOUND.measures(1.0, 0.65)
    assert set(found) == {"top1", "macro_top1", "calibration_error_raw", "calibration_error", "answered"} | {
        "right_where_answered"
    }
    assert found["top1"].value == 0.5
    assert found["macro_top1"].value == pytest.approx(FOUND.score())
    assert found["answered"].value == 0.5
    assert found["right_where_answered"].value == 0.5
    assert "right_where_answered" not in FOUND.measures(1.0, 0.9)
    # Five likeliest of seven: the true one is last in half of the rows.
    logits = np.tile(np.arange(7.0), (4, 1))
    many = Answers(logits=logits, truth=np.array([0, 1, 2, 6])).measures(1.0, 0.0)
    assert many["top5"].value == 0.5
    assert many["calibration_error_raw"] == many["calibration_error"]
