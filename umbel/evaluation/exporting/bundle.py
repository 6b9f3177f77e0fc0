"""A bundle: a folder that names plants in photographs with onnxruntime, numpy and Pillow alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from umbel.backbones import Backbone
from umbel.data.shard_set import ShardSet
from umbel.evaluation.classification import calibration_error, macro, micro
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.estimates import Estimate
from umbel.evaluation.exporting import bundle_predict
from umbel.evaluation.exporting.calibration import RECALL, accepting, class_means, fit_temperature
from umbel.evaluation.exporting.card import Section
from umbel.evaluation.exporting.card_data import data_lines
from umbel.evaluation.exporting.onnx_work import OnnxWork
from umbel.evaluation.exporting.sample_images import dead_leaves
from umbel.evaluation.open_set import rejection
from umbel.run import UserError, say

HEAD, RECORD, SCRIPT = "head.npz", "bundle.json", "predict.py"
TOP, LEAST_CLASSES = 5, 3


def write_bundle(folder: Path, backbone: Backbone, work: OnnxWork, shards: ShardSet) -> dict[str, Any]:
    """Write model, head, bundle.json and predict.py; returns the content of bundle.json.

    Raises:
        UserError: predict.py would prepare photographs otherwise than the backbone.
        ValueError: the work is without labeled photographs.
    """
    if work.labeled is None or work.rows is None:
        raise ValueError("a bundle needs labeled photographs")
    same_preparation(backbone, work.settings)
    labeled = work.labeled
    known, columns = labeled.numbered(labeled.support)
    mean, weight, bias = class_means(labeled.support.features, columns, len(known))
    head = {"mean": mean, "weight": weight, "bias": bias}
    _, truth = labeled.numbered(labeled.validation)
    logits, similarity = bundle_predict.scores_of(labeled.validation.features, **head)
    temperature, threshold = fit_temperature(logits, truth), accepting(similarity)
    measured = labeled.validation if labeled.test is None else labeled.test
    figures = _figures(measured, labeled.numbered(measured)[1], head, temperature, threshold)
    figures |= _strangers(labeled.support, measured)
    np.savez(folder / HEAD, mean=mean, weight=weight, bias=bias)
    told = {
        "format": bundle_predict.MEANS,
        "model": work.chosen.name,
        "head": HEAD,
        "classes": [shards.classes[label] for label in known],
        "preprocessing": work.settings,
        "temperature": temperature,
        "threshold": threshold,
        "photographs": {"classes": len(columns), "validation": len(truth), "measured": len(measured)},
        "validation": work.rows.words,
        "measured_on": "split test" if labeled.test is not None else f"the validation photographs ({work.rows.words})",
        "figures": {name: asdict(figure) for name, figure in figures.items()},
    }
    finish_bundle(folder, work, told)
    say(f"bundle: {len(known)} classes; temperature {temperature:.3g}, unknown below a similarity of {threshold:.3f}.")
    for name, figure in figures.items():
        say(f"  {name}: {in_words(figure)}")
    return told


def finish_bundle(folder: Path, work: OnnxWork, told: dict[str, Any]) -> None:
    """Put model, bundle.json and predict.py beside the head, and read what was written."""
    shutil.copyfile(work.chosen, folder / work.chosen.name)
    shutil.copyfile(Path(bundle_predict.__file__), folder / SCRIPT)
    (folder / RECORD).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    bundle_predict.Predictor(folder)


def bundle_section(told: dict[str, Any], place: str) -> Section:
    """The part of the model card that only a bundle has; `place`: where its photographs are from."""
    counts = told["photographs"]
    lines = [
        f"{len(told['classes'])} classes, each the mean of its photographs' features ({counts['classes']:,} in all). "
        f"The confidence is calibrated by a temperature of {told['temperature']:.3g}, on {counts['validation']:,} "
        f"photographs ({told['validation']}). Below a similarity of {told['threshold']:.3f} to "
        f'every class the answer is "unknown": {100 * RECALL:g} % of those photographs lie above.',
        "",
        f"Measured on {counts['measured']:,} photographs, {told['measured_on']} (95 % intervals):",
        "",
        *(f"- {name}: {in_words(Estimate(**figure))}" for name, figure in told["figures"].items()),
        "",
        "The classes' photographs:",
        "",
        *data_lines([place]),
    ]
    return Section(title="Answers", lines=lines)


def in_words(figure: Estimate) -> str:
    """A share in percent with its interval."""
    return f"{100 * figure.value:.1f} % ({100 * figure.low:.1f} to {100 * figure.high:.1f})"


def _figures(
    measured: Embeddings,
    truth: NDArray[np.int64],
    head: dict[str, NDArray[np.float32]],
    temperature: float,
    threshold: float,
) -> dict[str, Estimate]:
    logits, similarity = bundle_predict.scores_of(measured.features, **head)
    confidence = bundle_predict.softmax(logits / temperature)
    order = np.argsort(-confidence, axis=1, kind="stable")
    right, accepted = order[:, 0] == truth, similarity >= threshold
    found = {"right": micro(right), "mean over classes": macro(truth, right)}
    if logits.shape[1] > TOP:
        found["among the five likeliest"] = micro((order[:, :TOP] == truth[:, None]).any(1))
    found["calibration error"] = calibration_error(confidence.max(1), right)
    found["answered, not unknown"] = micro(accepted)
    if accepted.any():
        found["right where answered"] = micro(right[accepted])
    return found


def _strangers(support: Embeddings, measured: Embeddings) -> dict[str, Estimate]:
    """How often a species that is none of the classes is answered: by leaving a fifth of them out, again and again."""
    if len(np.intersect1d(support.label, measured.label)) < LEAST_CLASSES:
        return {}
    given = (torch.from_numpy(support.features), support.label, torch.from_numpy(measured.features), measured.label)
    found = next(one for one in rejection(*given, seed=0) if one.score == "centroid")
    return {"species that are no class, answered all the same": found.false_accepts}


def same_preparation(backbone: Backbone, settings: dict[str, Any]) -> None:
    """
    Raises:
        UserError: numpy and Pillow prepare a photograph otherwise than the backbone's transform.
    """
    size = backbone.card.image_size
    for width, height in ((4 * size // 3 + 8, size + 8), (size, 2 * size + 1)):
        (picture,) = dead_leaves(1, width=width, height=height, seed=2)
        expected: torch.Tensor = backbone.transform(picture)
        found = bundle_predict.prepare(picture, settings)
        if found.shape != tuple(expected.shape) or np.abs(found - expected.numpy()).max() > 1e-5:
            raise UserError(
                f"{backbone.source} prepares photographs in a way that a bundle cannot: export it --to onnx."
            )
