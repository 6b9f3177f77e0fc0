"""A backbone as an ONNX file: images (B, 3, S, S) -> features (B, C), any B, preprocessing in the file's metadata.

Needs the extra `onnx`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm.data
import torch

from umbel.backbones.loading import Backbone
from umbel.run import UserError

OPSET = 18
MOST_BYTES = 2**31 - 2**24
"""Protocol buffers hold no more; the graph itself takes some."""
MODES = ("center", "squash")
INTERPOLATIONS = ("bicubic", "bilinear")


def preprocessing_settings(backbone: Backbone) -> dict[str, Any]:
    """What happens to a photograph before the network: size, resize (pixels), crop_mode, interpolation, mean, std.

    Raises:
        UserError: timm's transform of this backbone does something else.
    """
    # An open_clip tower has no config of timm's; its pretrained_cfg serves.
    data = timm.data.resolve_model_data_config(backbone.model)
    _, height, width = data["input_size"]
    if height != width or data["crop_mode"] not in MODES or data["interpolation"] not in INTERPOLATIONS:
        raise UserError(
            f"{backbone.source} prepares photographs in a way that is not exported ({height} x {width}, "
            f"{data['crop_mode']}, {data['interpolation']}): export it --to timm."
        )
    return {
        "size": int(height),
        "resize": math.floor(height / data["crop_pct"]),
        "crop_mode": data["crop_mode"],
        "interpolation": data["interpolation"],
        "mean": [float(value) for value in data["mean"]],
        "std": [float(value) for value in data["std"]],
    }


def need_onnx(*names: str) -> list[Any]:
    """Import libraries of the extra `onnx`.

    Raises:
        UserError: one is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UserError(f"ONNX needs a library that is not here ({error}): pip install 'umbel[onnx]'.") from error


def write_onnx(backbone: Backbone, file: Path) -> None:
    """Write a backbone as ONNX in float32.

    Raises:
        UserError: a library is missing, the network is too large or cannot be exported.
    """
    onnx, _ = need_onnx("onnx", "onnxscript")
    weight = sum(p.numel() * p.element_size() for p in backbone.model.parameters())
    if weight > MOST_BYTES:
        raise UserError(f"{backbone.source} has {weight / 2**30:.1f} GiB of weights, more than one ONNX file holds.")
    size = backbone.card.image_size
    model = backbone.model.eval()
    try:
        with quietly(), torch.inference_mode():
            program = torch.onnx.export(
                model,
                # Two images: a batch of one would be taken for a constant.
                (torch.zeros(2, 3, size, size),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                verbose=False,
            )
    except Exception as error:
        # Tracing fails with exceptions of its own for what a network does that a graph cannot.
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{backbone.source} cannot be exported to ONNX ({type(error).__name__}: {reason}).") from error
    made = program.model_proto  # type: ignore[union-attr]
    told = {"umbel": "1", "preprocessing": json.dumps(preprocessing_settings(backbone))}
    onnx.helper.set_model_props(made, told | {"architecture": backbone.card.architecture})
    onnx.save(made, str(file))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what exporters and quantizers print and log of their inner steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
