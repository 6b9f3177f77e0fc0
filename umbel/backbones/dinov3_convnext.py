"""ConvNeXts as DINOv3 released them (a flat dictionary), read as timm's.

Sources: arXiv 2508.10104, arXiv 2201.03545 (whose names they have).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from umbel.backbones.folder import ModelCard
from umbel.backbones.misfits import commonest, floats, refuse_misfits
from umbel.backbones.released import ReleasedBackbone
from umbel.image_statistics import STATISTICS, StatisticsName
from umbel.run import UserError

WHAT = "ConvNeXt of DINOv3"
STEM = "downsample_layers.0.0.weight"
ARCHITECTURE = "convnext_tiny"
IMAGE_SIZE = 224
# The norm of the last stage stands there under its second name.
SECOND = re.compile(r"norms\.3\.(weight|bias)")
# timm's names -> DINOv3's.
RENAMED = (
    (r"stem\.", "downsample_layers.0."),
    (r"stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.\2."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc([12])\.", r".pwconv\1."),
    (r"^head\.norm\.", "norm."),
)


def is_dinov3_convnext(content: Mapping[Any, Any]) -> bool:
    """Whether a checkpoint's names are those of DINOv3's ConvNeXts."""
    return STEM in content


def read_dinov3_convnext(
    path: Path, content: Mapping[Any, Any], *, heads: int | None, statistics: StatisticsName | None
) -> ReleasedBackbone:
    """A DINOv3 ConvNeXt in timm's names; see `read_released`.

    Raises:
        UserError: a tensor that is missing, left over or of another shape.
    """
    if heads is not None:
        raise UserError(f"{path} is a {WHAT}, which has no attention heads: leave --heads out.")
    found = floats(path, {str(name): value for name, value in content.items()})
    notes = []
    for name in [name for name in found if SECOND.fullmatch(name)]:
        again = found[name]
        first = found.get(name.replace("norms.3.", "norm."))
        if first is not None and torch.equal(again, first):
            del found[name]
            notes.append(f"dropped {name}: it is norm.{name.split('.')[-1]} once more")
    stages = [[name for name in found if name.startswith(f"stages.{stage}.")] for stage in range(4)]
    dims = tuple(commonest(found[name] for name in names) for names in stages)
    depths = tuple(len({name.split(".")[2] for name in names}) for names in stages)
    if 0 in dims:
        raise UserError(f"{path} is no {WHAT}: it lacks stages.{dims.index(0)}.0.gamma and the like.")
    arguments: dict[str, Any] = {"depths": depths, "dims": dims}
    model: Any = timm.create_model(ARCHITECTURE, num_classes=0, **arguments)
    timms_names = {_authors(timms): timms for timms in model.state_dict()}
    expected = {_authors(timms): tuple(tensor.shape) for timms, tensor in model.state_dict().items()}
    refuse_misfits(path, found, expected, WHAT)
    mean, std = STATISTICS[statistics or "imagenet"]
    if statistics is None:
        notes.append(f"it tells no image statistics, so mean {mean} and deviation {std} are assumed, ImageNet's")
    card = ModelCard(
        architecture=ARCHITECTURE,
        arguments=arguments,
        image_size=IMAGE_SIZE,
        mean=mean,
        std=std,
        num_features=dims[-1],
        global_pool="avg",
        first_conv="stem.0",
        classifier="head.fc",
    )
    weights = {timms_names[authors]: tensor.float() for authors, tensor in found.items()}
    return ReleasedBackbone(card=card, weights=weights, notes=tuple(notes))


def _authors(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
