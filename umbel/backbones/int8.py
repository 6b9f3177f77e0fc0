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
# Weights have 7 bits: processors without VNNI add up pairs of products of 8 bits in 16, which may overflow, and a file
# that was good where it was made would answer otherwise elsewhere.
SEVEN_BITS = True


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
            reduce_range=SEVEN_BITS,
            op_types_to_quantize=["MatMul", "Gemm"],
        )


def write_static(source: Path, target: Path, images: NDArray[np.float32]) -> None:
    """Quantize convolutions and matrix products with their inputs.

    Depthwise convolutions stay in float32: they hold few weights, and onnxruntime is slower at them in 8 bits.

    Args:
        images: (B, 3, S, S), prepared photographs.
    """
    quantization, onnx = need_onnx("onnxruntime.quantization", "onnx")
    nodes = onnx.load(source, load_external_data=False).graph.node
    grouped = [node.name for node in nodes if any(a.name == "group" and a.i > 1 for a in node.attribute)]

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
            activation_type=quantization.QuantType.QUInt8,
            reduce_range=SEVEN_BITS,
            nodes_to_exclude=grouped,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )
