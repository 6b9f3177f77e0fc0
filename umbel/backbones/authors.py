"""Checkpoints as the authors of SimDINOv2, DINOv2 and DINOv3 released them, read as timm's networks.

Sources: arXiv 2502.10385 and 2604.27538 (a pickle of {"teacher": {"backbone.*", "dino_head.mlp.*"}}), arXiv 2304.07193
(a flat dictionary of the same names).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umbel.backbones.authors_names import BLOCK, expected_shapes, in_timms_names
from umbel.backbones.build import BackboneConfig, model_arguments
from umbel.backbones.dinov3 import is_dinov3, read_dinov3
from umbel.backbones.dinov3_convnext import is_dinov3_convnext, read_dinov3_convnext
from umbel.backbones.folder import ModelCard
from umbel.backbones.misfits import commonest, floats, refuse_misfits, shortlist
from umbel.backbones.released import ReleasedBackbone
from umbel.backbones.told_beside import place_beside, read_beside
from umbel.image_statistics import STATISTICS, StatisticsName
from umbel.run import UserError

HEAD_WIDTH = 64
# timm's name of each width; every size is told in the arguments as well, so another width is a vit_base of that size.
ARCHITECTURES = {192: "vit_tiny_patch16_224", 384: "vit_small_patch16_224", 1024: "vit_large_patch16_224"}
OTHER_WIDTH, WITH_SWIGLU = "vit_base_patch16_224", "vit_giant_patch14_dinov2"
PROJECTION_HEAD = re.compile(r"(dino_head|ibot_head)\.(mlp|last_layer)\..+")
# By whether there is a teacher in the file: whose image statistics are taken where nothing else is told, and why.
ASSUMED: dict[bool, tuple[StatisticsName, str]] = {
    True: (
        "inat-plantae",
        "those of iNaturalist 2021's plants, as the plant paper's files have this layout (SimDINOv2's of ImageNet have "
        "it too, and want ImageNet's)",
    ),
    False: ("imagenet", "ImageNet's, as DINOv2's files have this layout"),
}


def read_released(
    path: Path, *, heads: int | None = None, statistics: StatisticsName | None = None
) -> ReleasedBackbone:
    """Read a released checkpoint; nothing but tensors, numbers and text is unpickled.

    Args:
        heads: attention heads; by default what an export of Umbel's tells beside the file, else width / 64, of DINOv3
            as its rotary periods tell.
        statistics: what images are normalized with; by default what an export tells beside the file, else those of
            iNaturalist 2021's plants for a file with a teacher (SimDINOv2), ImageNet's for a flat one (DINOv2).

    Raises:
        UserError: not such a checkpoint, or a tensor that is missing, left over or of another shape: all are named.
    """
    content = _read(path)
    if is_dinov3(content):
        return read_dinov3(path, content, heads=heads, statistics=statistics)
    if is_dinov3_convnext(content):
        return read_dinov3_convnext(path, content, heads=heads, statistics=statistics)
    tensors, dropped = _backbone_tensors(path, content)
    beside = read_beside(path)
    told_heads = heads or (beside.heads if beside else None)
    config, image_size, weights = _convert(path, tensors, told_heads)
    notes = []
    if dropped:
        counts = Counter(name.split(".")[0] for name in dropped)
        notes.append(f"dropped {', '.join(f'{n} ({count})' for n, count in counts.items())}: no part of a backbone")
    if told_heads is None:
        notes.append(f"attention heads {config.heads}: its width {config.width} / {HEAD_WIDTH}")
    elif heads is None:
        notes.append(f"attention heads {config.heads}, as {place_beside(path).name} tells")
    assumed, reason = ASSUMED["teacher" in content]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean, std = STATISTICS[statistics or assumed]
    if statistics is None and beside is not None:
        mean, std = beside.mean, beside.std
        notes.append(f"mean {mean} and deviation {std} of images, as {place_beside(path).name} tells")
    elif statistics is None:
        notes.append(f"it tells no image statistics, so mean {mean} and deviation {std} are assumed, {reason}")
    arguments = model_arguments(config, image_size)
    if config.name == WITH_SWIGLU:
        # timm cuts width * ratio down to a whole number: half a unit keeps rounding from costing one.
        rows = len(weights["blocks.0.mlp.fc1.bias"])
        arguments["mlp_ratio"] = (rows + 0.5) / int(arguments["embed_dim"])
    card = ModelCard(
        architecture=config.name,
        arguments=arguments,
        image_size=image_size,
        mean=mean,
        std=std,
        num_features=int(arguments["embed_dim"]),
    )
    return ReleasedBackbone(card=card, weights=weights, notes=tuple(notes))


def _read(path: Path) -> dict[Any, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A file that is something else fails in torch, in its zip reader or in its unpickler, each in its own way; and
        # torch's advice is to trust the file.
        raise UserError(
            f"{path} is no backbone that Umbel reads: it is damaged, or holds more than tensors, numbers and text; "
            "give a run, a folder with config.json and model.safetensors, or a released SimDINOv2, DINOv2 or DINOv3."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no dictionary of tensors, but {type(content).__name__}: it is no backbone.")
    if {"format", "student", "teacher", "optimizer"} <= set(content):
        inside = path.resolve().parent.parent
        run = inside.parent if inside.name == "checkpoints" else "RUN"
        raise UserError(f"{path} is what a run of Umbel continues from: give the run's folder ({run}) instead.")
    return content


def _backbone_tensors(path: Path, content: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The backbone's tensors by the authors' names, and the names of what is dropped."""
    tensors: dict[str, Any] = {}
    dropped: list[str] = []
    if "teacher" not in content:
        tensors = {str(name): value for name, value in content.items()}
    else:
        teacher = content["teacher"] if isinstance(content["teacher"], Mapping) else {}
        left = [str(name) for name, value in content.items() if name != "teacher" and not _plain(value)]
        for name, value in teacher.items():
            if str(name).startswith("backbone."):
                tensors[str(name).removeprefix("backbone.")] = value
            else:
                (dropped if PROJECTION_HEAD.fullmatch(str(name)) else left).append(str(name))
        if left:
            raise UserError(f"{path} has more than the backbone and head of a teacher: {shortlist(left)}.")
    if tensors.pop("mask_token", None) is not None:
        dropped.append("mask_token")
    return tensors, dropped


def _convert(path: Path, tensors: dict[str, Any], heads: int | None) -> tuple[BackboneConfig, int, dict[str, Tensor]]:
    """Configuration, image size in pixels and timm's state dict."""
    found: dict[str, Tensor] = {}
    for name, tensor in floats(path, tensors).items():
        match = BLOCK.fullmatch(name)
        # Blocks in chunks: blocks.<chunk>.<i>., where i counts through.
        plain = f"blocks.{match[2] or match[1]}.{match[3]}" if match else name
        if plain in found:
            raise UserError(f"{path} has {plain} twice (as {name}, for one): its blocks are numbered in another way.")
        found[plain] = tensor
    depth = max(1, len({match[1] for match in map(BLOCK.fullmatch, found) if match}))
    swiglu = any(".mlp.w12." in name for name in found)
    width = commonest(found.values())
    patch = _length(found, "patch_embed.proj.weight", -1)
    grid = math.isqrt(max(_length(found, "pos_embed", 1) - 1, 0))
    registers = _length(found, "register_tokens", 1)
    expected = expected_shapes(width=width, depth=depth, patch=patch, grid=grid, registers=registers, swiglu=swiglu)
    refuse_misfits(path, found, expected, "ViT of SimDINOv2 or DINOv2")
    if heads is None and width % HEAD_WIDTH:
        raise UserError(f"{path}: its width {width} is no multiple of {HEAD_WIDTH}, so its heads cannot be told.")
    if heads is not None and width % heads:
        raise UserError(f"{path}: its width {width} is no multiple of {heads} attention heads: give other --heads.")
    config = BackboneConfig(
        name=WITH_SWIGLU if swiglu else ARCHITECTURES.get(width, OTHER_WIDTH),
        width=width,
        depth=depth,
        heads=heads or width // HEAD_WIDTH,
        patch=patch,
        registers=registers,
    )
    return config, grid * patch, in_timms_names(found)


def _length(found: Mapping[str, Tensor], name: str, dimension: int) -> int:
    """Length of a tensor's dimension; 0 where it is missing."""
    return found[name].shape[dimension] if name in found and found[name].ndim > 1 else 0


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
