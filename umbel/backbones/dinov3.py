"""Vision transformers as DINOv3 released them (a flat dictionary), read as timm's Eva networks.

Source: arXiv 2508.10104.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from umbel.backbones.folder import ModelCard
from umbel.backbones.misfits import commonest, floats, refuse_misfits
from umbel.backbones.released import ReleasedBackbone
from umbel.image_statistics import STATISTICS, StatisticsName
from umbel.run import UserError

WHAT = "ViT of DINOv3"
PERIODS, MARKS = "rope_embed.periods", ("storage_tokens", "rope_embed.periods")
# timm's name of each width; every size is told in the arguments as well, so another width is a vit_base of that size.
ARCHITECTURES = {384: "vit_small_patch16_dinov3", 1024: "vit_large_patch16_dinov3"}
OTHER_WIDTH, WITH_SWIGLU = "vit_base_patch16_dinov3", "vit_small_plus_patch16_dinov3"
IMAGE_SIZE = 256
# Training needs them, features do not: the mask's token, and the norm of the 7B's local crops.
DROPPED = re.compile(r"mask_token|local_cls_norm\.(weight|bias)")
# timm's names -> DINOv3's; the biases of queries and values are one tensor there, with that of keys between them.
RENAMED = (
    (r"^reg_token$", "storage_tokens"),
    (r"^(blocks\.\d+\.)gamma_([12])$", r"\1ls\2.gamma"),
    (r"^(blocks\.\d+\.attn\.)[qv]_bias$", r"\1qkv.bias"),
    (r"\.mlp\.fc1_g\.", ".mlp.w1."),
    (r"\.mlp\.fc1_x\.", ".mlp.w2."),
)
BIAS = ".attn.qkv.bias"
# What ends in the MLPs' hidden width.
HIDDEN = re.compile(r"blocks\.\d+\.mlp\.(fc1\.bias|fc2\.weight|w[12]\.bias|w3\.weight)")


def is_dinov3(content: Mapping[Any, Any]) -> bool:
    """Whether a checkpoint's names are those of DINOv3's ViTs."""
    return any(mark in content for mark in MARKS)


def read_dinov3(
    path: Path, content: Mapping[Any, Any], *, heads: int | None, statistics: StatisticsName | None
) -> ReleasedBackbone:
    """A DINOv3 ViT in timm's names; see `read_released`.

    Raises:
        UserError: a tensor that is missing, left over, of another shape, or has another meaning here.
    """
    given = floats(path, {str(name): value for name, value in content.items()})
    dropped = [name for name in given if DROPPED.fullmatch(name)]
    found = {name: tensor.float() for name, tensor in given.items() if name not in dropped}
    periods = found.pop(PERIODS, None)
    if periods is None or periods.ndim != 1 or not len(periods):
        shape = None if periods is None else tuple(periods.shape)
        raise UserError(f"{path} is no {WHAT}: {PERIODS} is {'missing' if shape is None else f'of shape {shape}'}.")
    arguments = _arguments(found, heads, len(periods))
    if heads is not None and arguments["embed_dim"] != heads * 4 * len(periods):
        raise UserError(
            f"{path}: {PERIODS} has {len(periods)} numbers, which {heads} heads of a width of "
            f"{arguments['embed_dim']} do not fit: leave --heads out."
        )
    swiglu = any(".mlp.w1." in name for name in found)
    name = WITH_SWIGLU if swiglu else ARCHITECTURES.get(arguments["embed_dim"], OTHER_WIDTH)
    try:
        model: Any = timm.create_model(name, num_classes=0, **arguments)
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path} is no {WHAT}: timm builds none of its sizes ({error}).") from error
    timms = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    width = arguments["embed_dim"]
    expected = {_authors(name, swiglu=swiglu): shape for name, shape in timms.items()}
    expected |= {name: (3 * width,) for name in expected if name.endswith(BIAS)}
    masks = {f"{name}_mask" for name in expected if name.endswith(BIAS)} & set(found)
    refuse_misfits(path, found, expected | dict.fromkeys(masks, (3 * width,)), WHAT)
    turns = model.rope.periods.float()
    if periods.shape != turns.shape or not torch.allclose(periods, turns, rtol=0.01):
        raise UserError(f"{path}: {PERIODS} are not those of DINOv3, so timm would place its patches elsewhere.")
    mean, std = STATISTICS[statistics or "imagenet"]
    notes = [f"dropped {', '.join(dropped)}: no part of a backbone"] if dropped else []
    notes.append(f"{PERIODS} are as timm computes them, and are left out")
    if heads is None:
        notes.append(f"attention heads {arguments['num_heads']}: its width {width} and {PERIODS} tell")
    if statistics is None:
        notes.append(
            f"it tells no image statistics, so mean {mean} and deviation {std} are assumed, ImageNet's, as DINOv3's "
            "web-image files want (its satellite files want others)"
        )
    card = ModelCard(
        architecture=name,
        arguments=arguments,
        image_size=IMAGE_SIZE,
        mean=mean,
        std=std,
        num_features=arguments["embed_dim"],
    )
    weights = {name: _weight(path, found, name, _authors(name, swiglu=swiglu)) for name in timms}
    return ReleasedBackbone(card=card, weights=weights, notes=tuple(notes))


def _arguments(found: Mapping[str, Tensor], heads: int | None, periods: int) -> dict[str, Any]:
    """What timm builds it with, as far as the tensors tell; misfits show when they are compared with its shapes."""
    width = commonest(found.values())
    depth = len({name.split(".")[1] for name in found if re.match(r"blocks\.\d+\.", name)})
    hidden = commonest(found[name] for name in found if HIDDEN.fullmatch(name))
    return {
        "img_size": IMAGE_SIZE,
        "embed_dim": width,
        "depth": max(depth, 1),
        "num_heads": heads or max(width // (4 * periods), 1),
        "patch_size": _length(found, "patch_embed.proj.weight", -1) or 16,
        "num_reg_tokens": _length(found, "storage_tokens", 1),
        # timm cuts width * ratio down to a whole number: half a unit keeps rounding from costing one.
        "mlp_ratio": (hidden + 0.5) / max(width, 1),
        "qkv_bias": any(name.endswith(BIAS) for name in found),
        "class_token": True,
        "global_pool": "token",
        "dynamic_img_size": True,
    }


def _weight(path: Path, found: Mapping[str, Tensor], timms: str, authors: str) -> Tensor:
    """A tensor of timm's; the bias of queries or values is cut out of DINOv3's.

    Raises:
        UserError: keys have a bias, which timm's network cannot have.
    """
    if not authors.endswith(BIAS):
        return found[authors]
    bias, mask = found[authors], found.get(f"{authors}_mask")
    query, key, value = (bias if mask is None else torch.where(mask == 0, 0.0, bias * mask)).chunk(3)
    if key.any():
        raise UserError(f"{path}: {authors} has a bias of keys, which DINOv3's networks have not.")
    return (query if timms.endswith("q_bias") else value).clone()


def _length(found: Mapping[str, Tensor], name: str, dimension: int) -> int:
    """Length of a tensor's dimension; 0 where it is missing."""
    return found[name].shape[dimension] if name in found and found[name].ndim else 0


def _authors(name: str, *, swiglu: bool) -> str:
    """DINOv3's name of a tensor of timm's."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name.replace(".mlp.fc2.", ".mlp.w3.") if swiglu else name
