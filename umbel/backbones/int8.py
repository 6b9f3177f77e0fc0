"""An ONNX file in 8-bit integers: weights alone for transformers, activations too for ConvNeXts.

A transformer's matrix products are quantized dynamically (the scale of activations is found for every batch). A
ConvNeXt's work is in convolutions, which need fixed scales: the least and greatest activation on calibration images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umbel.backbones.family import family_of
from umbel.backbones.onnx_file import need_onnx, quietly

CALIBRATION_BATCH = 8


def needs_calibration(model: Any) -> bool:
    """Whether a network is quantized with calibration images."""
    return family_of(model) == "convnext"


def write_dynamic(source: Path, target: Path) -> None:
    """Quantize the weights of matrix products, each output by itself; the other numbers stay float32."""
    (quantization,) = need_onnx("onnxruntime.quantization")
    with quietly():
        quantization.quantize_dynamic(
            source,
            target,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )


def write_static(source: Path, target: Path, images: NDArray[np.float32]) -> None:
    """Quantize convolutions and matrix products with their inputs.

    Args:
        images: (B, 3, S, S), prepared photographs.
    """
    (quantization,) = need_onnx("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.batches: Iterator[NDArray[np.float32]] = iter(
                images[first : first + CALIBRATION_BATCH] for first in range(0, len(images), CALIBRATION_BATCH)
            )

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    with quietly():
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )
