"""`umbel predict BUNDLE photo.jpg [more]`: names the plants in photographs, by the code that lies in the bundle too."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from umbel.run import UserError, say


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Name the plants in photographs with a bundle."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """A folder that `umbel export RUN --to bundle` made."""
    photographs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Photographs, of any kind of file that Pillow reads."""
    json: bool = False
    """Print JSON."""


def run(config: PredictConfig) -> None:
    """Print an answer for every photograph; the others are answered where one cannot be read.

    Raises:
        UserError: no bundle, no onnxruntime, or photographs that cannot be read.
    """
    if not config.photographs:
        raise UserError("there is no photograph to name: give one or more behind the bundle.")
    try:
        predict = importlib.import_module("umbel.evaluation.exporting.bundle_predict")
    except ImportError as error:
        raise UserError(
            f"predict needs onnxruntime, which is not here ({error}): pip install 'umbel[onnx]'."
        ) from error
    faults: list[str] = []
    try:
        for text, fault in predict.answers(config.bundle, config.photographs, as_json=config.json):
            if text:
                say(text)
            if fault is not None:
                faults.append(fault)
    except predict.BundleError as error:
        raise UserError(str(error)) from error
    if faults:
        raise UserError(f"{'; '.join(faults)}.")
