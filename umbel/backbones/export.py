"""`umbel export`: a run's backbone as a folder that timm loads, tested by loading it again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import timm
import torch
import tyro

from umbel.backbones.loading import find_folder, load
from umbel.run import UserError, atomic_folder, move_aside, say


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a run's backbone as config.json and model.safetensors."""

    backbone: Annotated[Path, tyro.conf.Positional]
    """A run folder (its newest checkpoint), or a folder with config.json and model.safetensors."""
    out: Path | None = None
    """Folder for the export; by default export/timm in the run folder."""
    force: bool = False
    """Move a folder at --out aside."""


def run(config: ExportConfig) -> None:
    """Export, test and say how to load.

    Raises:
        UserError: no checkpoint, something at --out, or an export whose features differ.
    """
    if not config.backbone.exists():
        raise UserError(f"{config.backbone} does not exist: give a run folder.")
    source = find_folder(config.backbone)
    if config.out is None and config.backbone.is_file():
        raise UserError(f"{config.backbone} is a file: say where to export to with --out.")
    out = config.out or config.backbone / "export" / "timm"
    if out.is_file():
        raise UserError(f"{out} is a file: choose a folder for --out.")
    if out.exists() and any(out.iterdir()):
        if config.out is not None and not config.force:
            raise UserError(f"{out} holds something: choose another --out, or --force to move it aside.")
        # The default place is ours: a newer checkpoint's export takes it, and the older one stays beside it.
        if _same(source, out):
            say(f"{out} already holds this checkpoint.")
            return
        move_aside(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(source / name, folder / name)
        difference = _largest_difference(source, folder)
        if difference > 1e-5:
            raise UserError(
                f"the export's features differ from the backbone's by {difference:.2g}: nothing was exported."
            )
    say(f"exported {source} to {out}; largest difference of features after loading again: {difference:.1g}.")
    say(f'load it: timm.create_model("local-dir:{out}", pretrained=True)')


def _same(source: Path, out: Path) -> bool:
    """Whether the export holds the source's very files."""
    names = ("config.json", "model.safetensors")
    return all((out / n).is_file() and (out / n).read_bytes() == (source / n).read_bytes() for n in names)


@torch.inference_mode()
def _largest_difference(source: Path, export: Path) -> float:
    """Compare the features of the backbone and of what timm alone loads, on random images."""
    backbone = load(source)
    again = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    size = again.pretrained_cfg["input_size"]
    images = torch.randn((4, *size), generator=torch.Generator().manual_seed(0))
    return float((backbone.model(images) - again(images)).abs().max())
