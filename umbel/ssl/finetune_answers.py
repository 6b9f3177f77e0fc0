"""What a classifier answers of photographs as they are: rows of validations, and the figures of the best weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from umbel.evaluation.answer_measures import Answers
from umbel.evaluation.embed import features_by
from umbel.evaluation.exporting.calibration import accepting, fit_head_temperature
from umbel.evaluation.extract import extract
from umbel.run import say
from umbel.ssl.checkpoint import read_state
from umbel.ssl.classifier import Classifier
from umbel.ssl.finetune_data import FinetuneData, LabeledPart
from umbel.ssl.fit_loop import SCORE

BATCH = 128
WORDS = {
    "top1": "right",
    "macro_top1": "right, mean over classes",
    "top5": "right among the five likeliest",
    "calibration_error_raw": "calibration error before the temperature",
    "calibration_error": "calibration error",
    "answered": "answered, not unknown",
    "right_where_answered": "right where answered",
}


class _Logits(nn.Module):
    """A classifier as a function of images alone."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.logits(images)


def answer(
    classifier: Classifier, part: LabeledPart, *, prepare: Callable[[Any], Tensor], device: str, workers: int
) -> Answers:
    """Logits of photographs, prepared as the backbone is evaluated; damaged ones are left out."""
    forward, _ = features_by(_Logits(classifier).eval(), device)
    made = extract(
        part.shards,
        prepare,
        forward,
        provenance={},
        batch=BATCH,
        workers=workers,
        splits=None,
        title=None,
        pin=device == "cuda",
    )
    place = {part.shards.key(sample): column for sample, column in enumerate(part.columns.tolist())}
    return Answers(logits=made.features, truth=np.array([place[key] for key in made.keys]))


def validation_row(found: Answers) -> dict[str, Any]:
    """A row of validation.jsonl, with the temperature and the threshold that its photographs give."""
    temperature = fit_head_temperature(found.logits.astype(np.float64), found.truth)
    return {
        SCORE: found.score(),
        "top1": float(found.right.mean()),
        "loss": found.loss(),
        "temperature": temperature,
        "threshold": accepting(found.confidence(temperature)),
        "photographs": len(found.truth),
    }


def measure(
    last: Path,
    classifier: Classifier,
    data: FinetuneData,
    answers: Callable[[Classifier, LabeledPart], Answers],
    device: torch.device,
) -> dict[str, Any]:
    """The figures of the best weights, with intervals; they are said, too."""
    best = read_state(last, device, needed=("best",))["best"]
    classifier.load_state_dict(best["weights"])
    classifier.eval()
    row = json.loads(best["row"])
    told: dict[str, Any] = {
        "format": 1,
        "step": row["step"],
        "classes": list(data.classes),
        "validated_on": data.words,
        "temperature": row["temperature"],
        "threshold": row["threshold"],
    }
    for name, part in (("val", data.validation), ("test", data.test)):
        if part is None:
            continue
        found = answers(classifier, part)
        figures = found.measures(row["temperature"], row["threshold"])
        told[name] = {"photographs": len(found.truth)} | {n: dataclasses.asdict(e) for n, e in figures.items()}
        say(f"{name} ({len(found.truth):,} photographs; best weights, of step {row['step']}):")
        for measure_name, figure in figures.items():
            say(f"  {WORDS[measure_name]}: {figure}")
    return told
