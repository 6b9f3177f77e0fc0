"""`umbel import SOURCE FOLDER`: a backbone from elsewhere, or from a run, as a folder that timm loads.

Every tensor is taken over, or dropped by name and said so, or the command ends with the names of those that do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import tyro
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from umbel.backbones.authors import read_released
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.backbones.loading import find_folder, load
from umbel.backbones.misfits import floats, refuse_misfits
from umbel.image_statistics import StatisticsName
from umbel.run import UserError, atomic_folder, move_aside, refuse_overlap, say


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Make a folder that timm loads from a checkpoint of another project, or of a run."""

    source: Annotated[Path, tyro.conf.Positional]
    """A released file of SimDINOv2, DINOv2 or DINOv3 (ViT or ConvNeXt); a run, one of its checkpoints, its training.pt;
    or a folder with config.json and model.safetensors."""
    folder: Annotated[Path, tyro.conf.Positional]
    """The folder to make: config.json and model.safetensors."""
    heads: int | None = None
    """Attention heads of a released ViT; by default what a JSON of `umbel export` beside it tells, else its width / 64
    (of DINOv3: as its rotary periods tell)."""
    statistics: StatisticsName | None = None
    """What a released file's images are normalized with; by default what a JSON of `umbel export` beside it tells, else
    what its layout suggests, which is said."""
    force: bool = False
    """Move what is at FOLDER aside."""

    def __post_init__(self) -> None:
        if self.heads is not None and self.heads < 1:
            raise ValueError(f"heads must be at least 1, not {self.heads}")


def run(config: ImportConfig) -> None:
    """Read, write, load again and compare.

    Raises:
        UserError: no backbone, tensors that do not fit, or something at FOLDER.
    """
    source = config.source
    if not source.exists():
        raise UserError(f"{source} does not exist: give a checkpoint, a run or a folder.")
    if config.folder.is_file():
        raise UserError(f"{config.folder} is a file: choose a folder.")
    occupied = config.folder.exists() and any(config.folder.iterdir())
    if occupied and not config.force:
        raise UserError(f"{config.folder} holds something: choose another folder, or --force to move it aside.")
    if occupied:
        refuse_overlap(source, config.folder)
    weights, card = _released(config) if _is_released(source) else _folder(config)
    config.folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(config.folder) as folder:
        write_timm_folder(folder, weights, card)
        _check(folder, weights)
        if occupied:
            move_aside(config.folder)
    count = sum(tensor.numel() for tensor in weights.values())
    say(f"imported {source} to {config.folder}: {card.architecture}, {len(weights)} tensors, {count / 1e6:.1f} M.")
    say(f'load it: timm.create_model("local-dir:{config.folder}", pretrained=True)')


def _is_released(source: Path) -> bool:
    return source.is_file() and source.suffix != ".safetensors" and source.name != "training.pt"


def _released(config: ImportConfig) -> tuple[dict[str, Tensor], ModelCard]:
    found = read_released(config.source, heads=config.heads, statistics=config.statistics)
    for note in found.notes:
        say(f"{config.source}: {note}.")
    return found.weights, found.card


def _folder(config: ImportConfig) -> tuple[dict[str, Tensor], ModelCard]:
    """Tensors and card of a run's checkpoint or of a timm folder.

    Raises:
        UserError: there is none, or a tensor that is missing, left over or of another shape.
    """
    for option, value in (("--heads", config.heads), ("--statistics", config.statistics)):
        if value is not None:
            raise UserError(f"{config.source} tells this itself: leave {option} out.")
    source = config.source.parent if config.source.name == "training.pt" else config.source
    folder = find_folder(source / "backbone" if (source / "backbone" / "config.json").is_file() else source)
    card = load(folder).card
    # timm resizes and leaves aside in silence: what the file holds must be what the network has.
    model: Any = timm.create_model(card.architecture, num_classes=0, **card.arguments)
    try:
        found = floats(folder / "model.safetensors", load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / 'model.safetensors'} cannot be read ({error}).") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    refuse_misfits(folder / "model.safetensors", found, expected, f"{card.architecture} as config.json tells it")
    return found, card


def _check(folder: Path, weights: dict[str, Tensor]) -> None:
    """Load by timm alone: every tensor must be there, bit for bit."""
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    wrong = [name for name, tensor in weights.items() if not torch.equal(again[name], tensor)]
    if wrong or set(again) != set(weights):
        raise RuntimeError(f"timm loads other tensors than were written: {wrong or set(again) ^ set(weights)}")
