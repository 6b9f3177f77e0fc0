"""The ONNX files of one export, made once for the formats that need them, with the features of labeled photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from umbel.backbones import Backbone
from umbel.backbones.int8 import needs_calibration
from umbel.backbones.onnx_file import preprocessing_settings
from umbel.data.shard_set import ShardSet
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.exporting.calibration import class_means
from umbel.evaluation.exporting.labeled_rows import CALIBRATES, COMPARES, LabeledRows, choose_rows, take
from umbel.evaluation.exporting.onnx_target import (
    FLOAT_FILE,
    INT8_FILE,
    Gate,
    features_of,
    gate,
    write_float,
    write_int8,
)
from umbel.evaluation.exporting.sample_images import dead_leaves
from umbel.evaluation.exporting.self_test import SelfTest
from umbel.evaluation.extract import extract
from umbel.evaluation.photograph_batches import cut, photograph_batches
from umbel.run import UserError, say

CALIBRATION, COMPARED, BATCH = 128, 256, 32


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """Features of labeled photographs by one ONNX file."""

    support: Embeddings
    validation: Embeddings
    test: Embeddings | None

    def numbered(self, which: Embeddings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The labels that the support has, (K,), and the place among them of each photograph, (N,)."""
        known = np.unique(self.support.label)
        return known, np.searchsorted(known, which.label)


@dataclass(frozen=True, kw_only=True)
class OnnxWork:
    """What was made, in a folder of its own."""

    folder: Path
    settings: dict[str, Any]
    test: SelfTest
    gate: Gate | None
    """None: no 8-bit file was asked for."""
    labeled: Labeled | None
    """By the 8-bit file where there is one."""
    rows: LabeledRows | None

    @property
    def chosen(self) -> Path:
        """The file that a bundle gets."""
        return self.folder / (FLOAT_FILE if self.gate is None else INT8_FILE)

    def record(self) -> dict[str, Any]:
        """For self_test.json."""
        return self.test.record() | {"int8": None if self.gate is None else self.gate.record()}


def make_onnx(
    backbone: Backbone,
    folder: Path,
    shards: ShardSet | None,
    *,
    place: str,
    int8: bool,
    need_labels: bool,
    per_class: int,
    workers: int,
) -> OnnxWork:
    """Write the float file and, if asked, the 8-bit one; embed labeled photographs where something needs them.

    Args:
        shards: photographs to calibrate and measure by.
        place: where they are from, for what is said.
        need_labels: a bundle is wanted.

    Raises:
        UserError: a file that is not near enough to the torch model, or photographs that do not do.
    """
    settings = preprocessing_settings(backbone)
    if int8 and needs_calibration(backbone.model) and shards is None:
        write_int8(backbone, folder, None)  # says what is missing before the slow steps
    rows = None if shards is None else _rows(shards, place, need_labels=need_labels, int8=int8, per_class=per_class)
    test = write_float(backbone, folder)
    say(f"ONNX: largest difference of features {test.largest:.1g}.")
    floats = None
    if shards is not None and rows is not None:
        floats = _labeled(backbone, folder / FLOAT_FILE, shards, rows, workers, test=need_labels and not int8)
    if not int8:
        return OnnxWork(folder=folder, settings=settings, test=test, gate=None, labeled=floats, rows=rows)
    calibration = None if shards is None else _sample(backbone, shards, CALIBRATION, seed=0, workers=workers)
    write_int8(backbone, folder, calibration)
    quantized = None
    if floats is not None and rows is not None and shards is not None:
        quantized = _labeled(backbone, folder / INT8_FILE, shards, rows, workers, test=need_labels)
        pair = (floats.validation.features, quantized.validation.features)
        accuracies = (accuracy(floats), accuracy(quantized))
        found = gate(folder, pair[0], pair[1], accuracies)
    else:
        images = _compared(backbone, shards, workers)
        found = gate(folder, batched(folder / FLOAT_FILE, images), batched(folder / INT8_FILE, images), None)
    found.check()
    say(f"int8: {found.words()}.")
    return OnnxWork(folder=folder, settings=settings, test=test, gate=found, labeled=quantized, rows=rows)


def accuracy(labeled: Labeled) -> float:
    """The share of validation photographs whose nearest class mean is their class's."""
    known, columns = labeled.numbered(labeled.support)
    head = dict(
        zip(("mean", "weight", "bias"), class_means(labeled.support.features, columns, len(known)), strict=True)
    )
    _, truth = labeled.numbered(labeled.validation)
    logits, _ = _predict().scores_of(labeled.validation.features, **head)
    return float((logits.argmax(1) == truth).mean())


def batched(file: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features, (B, C), of prepared images by an ONNX file."""
    features = features_of(file)
    return np.concatenate([features(images[first : first + BATCH]) for first in range(0, len(images), BATCH)])


def _predict() -> Any:
    from umbel.evaluation.exporting import bundle_predict

    return bundle_predict


def _rows(shards: ShardSet, place: str, *, need_labels: bool, int8: bool, per_class: int) -> LabeledRows | None:
    if not need_labels and not int8:
        return None
    try:
        purpose = CALIBRATES if need_labels else COMPARES
        return choose_rows(shards, per_class=per_class, place=place, purpose=purpose)
    except UserError as error:
        if need_labels:
            raise
        say(f"int8 is judged by cosines alone: {error}")
        return None


def _labeled(
    backbone: Backbone, file: Path, shards: ShardSet, rows: LabeledRows, workers: int, *, test: bool
) -> Labeled:
    features = features_of(file)

    def embed(part: NDArray[np.int64], what: str) -> Embeddings:
        return extract(
            take(shards, part),
            backbone.transform,
            lambda images: torch.from_numpy(features(images.numpy())),
            provenance={},
            batch=BATCH,
            workers=workers,
            splits=None,
            title=f"embedding {what} by {file.name.removesuffix('.onnx').replace('.', ' ')}",
        )

    return Labeled(
        support=embed(rows.support, "class photographs"),
        validation=embed(rows.validation, "validation photographs"),
        test=embed(rows.test, "test photographs") if test and len(rows.test) else None,
    )


def _compared(backbone: Backbone, shards: ShardSet | None, workers: int) -> NDArray[np.float32]:
    """Images to compare the two files on: photographs, others than calibrated, or natural-looking pictures."""
    if shards is not None:
        return _sample(backbone, shards, COMPARED, seed=1, workers=workers)
    size = backbone.card.image_size
    pictures = dead_leaves(BATCH, width=4 * size // 3 + 8, height=size + 8, seed=1)
    return np.stack([backbone.transform(picture).numpy() for picture in pictures])


def _sample(backbone: Backbone, shards: ShardSet, count: int, *, seed: int, workers: int) -> NDArray[np.float32]:
    """Prepared random photographs, (B, 3, S, S); damaged ones are left out."""
    order = np.random.default_rng(0).permutation(len(shards))
    # Halves of one order: what is compared was not calibrated on, where there are enough photographs.
    order = order[:count] if seed == 0 else order[::-1][:count]
    chosen = take(shards, np.sort(order))
    batches = photograph_batches(chosen, backbone.transform, cut(0, len(chosen), BATCH), workers=workers)
    found = [images.numpy() for good, images, _ in batches if good]
    if not found:
        raise UserError(f"none of {len(chosen)} photographs can be read: give others as --data.")
    return np.concatenate(found)
