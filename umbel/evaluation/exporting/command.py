"""`umbel export RUN [--to timm,dinov2,onnx,bundle]`: a run's backbone in the formats that others read, each tested.

Without --to it is the timm folder alone, as `umbel.backbones.export` makes it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel.backbones import Backbone, export, load
from umbel.backbones.dinov2_file import dinov2_state, trained_mask_token
from umbel.backbones.loading import find_folder
from umbel.backbones.onnx_file import need_onnx
from umbel.config import nearest
from umbel.data.index import find_shards
from umbel.evaluation.exporting import format_folders
from umbel.evaluation.exporting.artifact import refuse_occupied
from umbel.evaluation.exporting.asked import asked_of, is_finished
from umbel.evaluation.exporting.classifier_head import ClassifierHead, head_of
from umbel.evaluation.exporting.format_folders import Target
from umbel.evaluation.exporting.onnx_work import make_onnx
from umbel.evaluation.extract import open_data
from umbel.machine import choose_workers
from umbel.run import UserError, refuse_overlap, say

FORMATS = ("timm", "dinov2", "onnx", "bundle")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(export.ExportConfig):
    """Export a run's backbone: as a timm folder, or in formats that are named."""

    out: Path | None = None
    """Folder for the export, by default export/timm in the run folder; with --to, the folder that gets a folder for
    each format, by default export in the run folder."""
    to: tuple[str, ...] = ()
    """Formats, with commas or spaces between them: timm, dinov2 (a state dict by DINOv2's names), onnx, bundle (names
    plants by itself; needs labeled --data, unless the run was fine-tuned). Each folder has a model card, a self-test
    and sums. Without it: config.json and model.safetensors alone."""
    data: str | None = None
    """Shards, or class folders of photographs: of the bundle's classes, and to calibrate and judge 8-bit models by."""
    int8: bool = False
    """Make an 8-bit ONNX model too, and the bundle of it; refused where its features or answers are not near enough."""
    per_class: int = 200
    """Photographs of a class that a bundle is made of, at most; as many again to calibrate and to measure."""
    workers: int = -1
    """Processes that decode photographs; -1: chosen by the processors at hand, 0: this process itself."""

    def __post_init__(self) -> None:
        for name in self.formats():
            if name not in FORMATS:
                raise ValueError(f"to must name {', '.join(FORMATS)}, not '{name}'{nearest(name, FORMATS)}")
        if self.per_class < 2:
            raise ValueError(f"per_class must be at least 2, not {self.per_class}")
        if self.workers < -1:
            raise ValueError(f"workers must be at least -1, not {self.workers}")

    def formats(self) -> tuple[str, ...]:
        """The formats that are asked for, in one order, each once."""
        named = [name.strip() for part in self.to for name in part.split(",") if name.strip()]
        return (*(name for name in FORMATS if name in named), *(name for name in named if name not in FORMATS))


def run(config: ExportConfig) -> None:
    """Export, test and say how to load.

    Raises:
        UserError: no checkpoint, something at a place, a format that the network has not, or a test that fails.
    """
    formats = config.formats()
    if not formats:
        _refuse_alone(config)
        fields = {field.name for field in dataclasses.fields(export.ExportConfig)}
        export.run(export.ExportConfig(**{name: getattr(config, name) for name in fields}))
        return
    if not config.backbone.exists():
        raise UserError(f"{config.backbone} does not exist: give a run folder.")
    source = find_folder(config.backbone)
    if config.out is None and config.backbone.is_file():
        raise UserError(f"{config.backbone} is a file: say where to export to with --out.")
    out = config.out or config.backbone / "export"
    if out.is_file():
        raise UserError(f"{out} is a file: choose a folder for --out.")
    head = head_of(source)
    if "bundle" in formats and config.data is None and head is None:
        raise UserError("a bundle's classes are made of labeled photographs: give them as --data.")
    if config.int8 and not {"onnx", "bundle"} & set(formats):
        raise UserError("--int8 is for ONNX models: add onnx or bundle to --to.")
    if {"onnx", "bundle"} & set(formats):
        need_onnx("onnx", "onnxscript", "onnxruntime")
    asked = asked_of(source, formats, data=config.data, int8=config.int8, per_class=config.per_class)
    if head is not None and "bundle" in asked:
        say("bundle: of the run's own head, with its temperature and threshold.")
    left = _left(config, source, out, asked)
    if not left:
        return
    backbone = load(source)
    run_folder = config.backbone if config.backbone.is_dir() else source
    targets = {name: Target(out=out / name, backbone=backbone, run=run_folder, asked=asked[name]) for name in left}
    state = (
        dinov2_state(backbone.model, mask_token=trained_mask_token(source), source=str(source))
        if "dinov2" in targets
        else None
    )  # refuses before anything is written
    if "timm" in targets:
        format_folders.write_timm(targets["timm"], source)
    if state is not None:
        format_folders.write_dinov2(targets["dinov2"], state)
    if {"onnx", "bundle"} & set(targets):
        with tempfile.TemporaryDirectory(prefix="umbel-export-") as scratch:
            _onnx_and_bundle(config, targets, backbone, head, Path(scratch))


def _left(config: ExportConfig, source: Path, out: Path, asked: Mapping[str, dict[str, Any]]) -> list[str]:
    """The formats that no earlier try of the same export has finished.

    Raises:
        UserError: something else lies at a place of theirs.
    """
    left = []
    for name, told in asked.items():
        if not config.force and is_finished(out / name, told):
            say(f"{name}: {out / name} is kept, as this same export finished it before and its sums hold.")
            continue
        refuse_occupied(out / name, force=config.force)
        for place in (source, config.data):
            if place is not None:
                refuse_overlap(place, out / name)
        left.append(name)
    return left


def _refuse_alone(config: ExportConfig) -> None:
    for flag, given in (("--data", config.data is not None), ("--int8", config.int8)):
        if given:
            raise UserError(f"{flag} is for ONNX models and bundles: say --to onnx or --to bundle.")


def _onnx_and_bundle(
    config: ExportConfig,
    targets: Mapping[str, Target],
    backbone: Backbone,
    head: ClassifierHead | None,
    scratch: Path,
) -> None:
    workers = int(choose_workers(config.workers, 1).value)
    shards, place = None, ""
    if config.data is not None:
        shards = open_data(config.data, scratch / "shards", backbone.card.image_size, workers=config.workers)
        place = shards.folder if find_shards(config.data) else config.data
    (scratch / "onnx").mkdir()
    work = make_onnx(
        backbone,
        scratch / "onnx",
        shards,
        place=place,
        int8=config.int8,
        need_labels="bundle" in targets and head is None,
        per_class=config.per_class,
        workers=workers,
    )
    if "onnx" in targets:
        format_folders.write_onnx(targets["onnx"], work)
    if "bundle" in targets:
        format_folders.write_bundle(targets["bundle"], work, shards, place=place, head=head)
