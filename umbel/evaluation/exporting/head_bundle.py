"""A bundle of a fine-tuned classifier: its own head instead of class means, its own temperature and threshold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from umbel.backbones import Backbone
from umbel.evaluation.estimates import Estimate
from umbel.evaluation.exporting.bundle import HEAD, finish_bundle, in_words, same_preparation
from umbel.evaluation.exporting.bundle_predict import LINEAR
from umbel.evaluation.exporting.calibration import RECALL
from umbel.evaluation.exporting.card import Section
from umbel.evaluation.exporting.classifier_head import ClassifierHead
from umbel.evaluation.exporting.onnx_work import OnnxWork
from umbel.run import say

RESULT = "result.json"
FIGURES = {
    "top1": "right",
    "macro_top1": "mean over classes",
    "top5": "among the five likeliest",
    "calibration_error": "calibration error",
    "answered": "answered, not unknown",
    "right_where_answered": "right where answered",
}


def write_head_bundle(
    folder: Path, backbone: Backbone, work: OnnxWork, head: ClassifierHead, run: Path
) -> dict[str, Any]:
    """Write model, head, bundle.json and predict.py; returns the content of bundle.json.

    Args:
        run: the run folder, whose result.json has the figures of the same weights, if it has come to its end.

    Raises:
        UserError: predict.py would prepare photographs otherwise than the backbone.
    """
    same_preparation(backbone, work.settings)
    np.savez(folder / HEAD, weight=head.weight, bias=head.bias)
    told = {
        "format": LINEAR,
        "model": work.chosen.name,
        "head": HEAD,
        "classes": list(head.classes),
        "preprocessing": work.settings,
        "temperature": head.temperature,
        "threshold": head.threshold,
        "calibrated": bool(head.measured),
        **measured_figures(run, head),
    }
    finish_bundle(folder, work, told)
    calibration = (
        f"temperature {head.temperature:.3g}, unknown below a confidence of {head.threshold:.3f}"
        if head.measured
        else "nothing validated it: its confidence is not calibrated, and it never answers unknown"
    )
    say(f"bundle: {len(head.classes)} classes, the run's own head; {calibration}.")
    for name, figure in told["figures"].items():
        say(f"  {name}: {in_words(Estimate(**figure))}")
    return told


def head_section(told: dict[str, Any]) -> Section:
    """The part of the model card that tells of the classes."""
    calibration = (
        f"The confidence is calibrated by a temperature of {told['temperature']:.3g}. Below a confidence of "
        f'{told["threshold"]:.3f} the answer is "unknown": {100 * RECALL:g} % of the validation photographs lie above.'
        if told["calibrated"]
        else 'No photographs validated it: the confidence is not calibrated, and the answer is never "unknown".'
    )
    lines = [f"{len(told['classes'])} classes by a linear head that was trained on its features. {calibration}"]
    if told["figures"]:
        lines += ["", f"Measured on {told['measured']:,} photographs, {told['measured_on']} (95 % intervals):", ""]
        lines += [f"- {name}: {in_words(Estimate(**figure))}" for name, figure in told["figures"].items()]
    return Section(title="Answers", lines=lines)


def measured_figures(run: Path, head: ClassifierHead) -> dict[str, Any]:
    """The figures of the run's result, on test photographs where there are any; none if they are of other weights."""
    nothing: dict[str, Any] = {"measured": 0, "measured_on": "", "figures": {}}
    try:
        result = json.loads((run / RESULT).read_text(encoding="utf-8"))
        split, part, figures = _of_distillation(result) if "splits" in result else _of_finetuning(result)
        # A distillation that nothing validated has no step in its head; its result is of its last checkpoint.
        if result["step"] != head.measured.get("step", result["step"] if "splits" in result else None):
            return nothing
        return {
            "measured": part["photographs"],
            "measured_on": split,
            "figures": {words: figures[name] for name, words in FIGURES.items() if name in figures},
        }
    except (OSError, ValueError, KeyError, TypeError):
        return nothing


def _of_finetuning(result: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Of a result of `umbel finetune`: which photographs, their row, its figures."""
    if result.get("test"):
        return "split test", result["test"], result["test"]
    return f"the validation photographs ({result['validated_on']})", result["val"], result["val"]


def _of_distillation(result: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Of a result of `umbel distill`: which photographs, their row, the student's figures."""
    split = "test" if "test" in result["splits"] else "val"
    return f"split {split}", result["splits"][split], result["splits"][split]["student"]
