"""The ONNX export: a float file that is tested, and an 8-bit one that is kept only where it is nearly as good."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umbel.backbones import Backbone
from umbel.backbones.int8 import needs_calibration, write_dynamic, write_static
from umbel.backbones.onnx_file import need_onnx, write_onnx
from umbel.evaluation.exporting.self_test import FLOAT, SelfTest, self_test
from umbel.run import UserError, say

FLOAT_FILE, INT8_FILE = "model.onnx", "model.int8.onnx"
LEAST_COSINE, MOST_LOST = 0.99, 0.01
Features = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """How near an 8-bit file is to the float one."""

    cosine: float
    """Mean cosine of its features to the float ones."""
    least_cosine: float
    """That of the worst image."""
    images: int
    accuracy_float: float | None
    """Share of labeled photographs whose nearest class mean is right; None without labels."""
    accuracy_int8: float | None
    bytes_float: int
    bytes_int8: int

    def record(self) -> dict[str, Any]:
        """As it is stored in self_test.json."""
        return asdict(self) | {"cosine_asked": LEAST_COSINE, "accuracy_lost_at_most": MOST_LOST}

    def check(self) -> None:
        """
        Raises:
            UserError: it is not near enough.
        """
        if not self.cosine >= LEAST_COSINE:
            raise UserError(
                f"the 8-bit model is refused: the mean cosine of its features to the float ones is {self.cosine:.4f} "
                f"over {self.images} images, less than {LEAST_COSINE}; export without --int8."
            )
        if self.accuracy_float is None or self.accuracy_int8 is None:
            return
        if self.accuracy_int8 < self.accuracy_float - MOST_LOST:
            raise UserError(
                f"the 8-bit model is refused: {100 * self.accuracy_int8:.1f} % of photographs are nearest to their "
                f"class's mean, {100 * self.accuracy_float:.1f} % with the float one, and at most "
                f"{100 * MOST_LOST:g} points may be lost; export without --int8."
            )

    def words(self) -> str:
        """In a sentence's part."""
        told = f"mean cosine {self.cosine:.4f} over {self.images} images (worst {self.least_cosine:.4f})"
        if self.accuracy_float is not None and self.accuracy_int8 is not None:
            told += f", nearest class mean {100 * self.accuracy_int8:.1f} % against {100 * self.accuracy_float:.1f} %"
        return f"{told}, {self.bytes_float / self.bytes_int8:.1f} times smaller"


def write_float(backbone: Backbone, folder: Path) -> SelfTest:
    """Write model.onnx and test it.

    Raises:
        UserError: a library is missing, or its features differ.
    """
    write_onnx(backbone, folder / FLOAT_FILE)
    return self_test(backbone, features_of(folder / FLOAT_FILE), "the ONNX file", bound=FLOAT)


def features_of(file: Path) -> Features:
    """An ONNX file as a function: (B, 3, S, S) -> (B, C)."""
    need_onnx("onnxruntime")
    predict = importlib.import_module("umbel.evaluation.exporting.bundle_predict")
    session = predict.open_model(file)
    return lambda images: np.asarray(predict.features(session, images), dtype=np.float32)


def write_int8(backbone: Backbone, folder: Path, calibration: NDArray[np.float32] | None) -> None:
    """Write model.int8.onnx beside model.onnx.

    Args:
        calibration: (B, 3, S, S), prepared photographs; a transformer needs none.

    Raises:
        UserError: a ConvNeXt without them.
    """
    source, target = folder / FLOAT_FILE, folder / INT8_FILE
    if not needs_calibration(backbone.model):
        say("int8: weights of matrix products, activations scaled batch by batch, as it is a transformer.")
        write_dynamic(source, target)
        return
    if calibration is None:
        raise UserError(
            f"{backbone.source} is a ConvNeXt, whose 8-bit model needs photographs to calibrate by: give --data."
        )
    say(f"int8: weights and activations, calibrated on {len(calibration)} photographs, as it is a ConvNeXt.")
    write_static(source, target, calibration)


def gate(
    folder: Path, floats: NDArray[np.float32], int8: NDArray[np.float32], accuracies: tuple[float, float] | None
) -> Gate:
    """Hold the two files' features, (B, C) each, of the same images against each other."""
    lengths = np.linalg.norm(floats, axis=1) * np.linalg.norm(int8, axis=1)
    cosines = (floats * int8).sum(1) / np.maximum(lengths, 1e-12)
    return Gate(
        cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
        images=len(cosines),
        accuracy_float=None if accuracies is None else accuracies[0],
        accuracy_int8=None if accuracies is None else accuracies[1],
        bytes_float=(folder / FLOAT_FILE).stat().st_size,
        bytes_int8=(folder / INT8_FILE).stat().st_size,
    )
