"""`umbel export RUN [--to timm,dinov2,onnx,bundle]`: a run's backbone in the formats that others read, each tested.

Without --to it is the timm folder alone, as `umbel.backbones.export` makes it.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from umbel.backbones import Backbone, export, load
from umbel.backbones.authors import read_released
from umbel.backbones.dinov2_file import dinov2_state, trained_mask_token
from umbel.backbones.loading import find_folder
from umbel.backbones.onnx_file import need_onnx
from umbel.config import nearest
from umbel.data.shard_set import ShardSet
from umbel.evaluation.exporting.artifact import finish, refuse_occupied, whole_folder
from umbel.evaluation.exporting.card import Section, model_card
from umbel.evaluation.exporting.onnx_target import FLOAT_FILE, INT8_FILE
from umbel.evaluation.exporting.onnx_work import OnnxWork, make_onnx
from umbel.evaluation.exporting.self_test import EXACT, by_torch, self_test
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
    plants by itself; needs labeled --data). Each folder has a model card, a self-test and sums. Without it:
    config.json and model.safetensors alone."""
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
    for name in formats:
        refuse_occupied(out / name, force=config.force)
        for place in (source, config.data):
            if place is not None:
                refuse_overlap(place, out / name)
    if "bundle" in formats and config.data is None:
        raise UserError("a bundle's classes are made of labeled photographs: give them as --data.")
    if config.int8 and not {"onnx", "bundle"} & set(formats):
        raise UserError("--int8 is for ONNX models: add onnx or bundle to --to.")
    if {"onnx", "bundle"} & set(formats):
        need_onnx("onnx", "onnxscript", "onnxruntime")
    backbone = load(source)
    run_folder = config.backbone if config.backbone.is_dir() else source
    state = (
        dinov2_state(backbone.model, mask_token=trained_mask_token(source), source=str(source))
        if ("dinov2" in formats)
        else None
    )  # refuses before anything is written
    if "timm" in formats:
        _timm(source, out / "timm", backbone, run_folder)
    if state is not None:
        _dinov2(state, out / "dinov2", backbone, run_folder)
    if {"onnx", "bundle"} & set(formats):
        with tempfile.TemporaryDirectory(prefix="umbel-export-") as scratch:
            _onnx_and_bundle(config, formats, out, backbone, run_folder, Path(scratch))


def _refuse_alone(config: ExportConfig) -> None:
    for flag, given in (("--data", config.data is not None), ("--int8", config.int8)):
        if given:
            raise UserError(f"{flag} is for ONNX models and bundles: say --to onnx or --to bundle.")


def _timm(source: Path, out: Path, backbone: Backbone, run_folder: Path) -> None:
    with whole_folder(out) as folder:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(source / name, folder / name)
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        test = self_test(backbone, by_torch(again), "the timm folder", bound=EXACT)
        usage = f'timm.create_model("local-dir:{out.name}", pretrained=True)'
        card = model_card(backbone, run_folder, kind="a timm folder", usage=usage, test=test)
        finish(folder, card=card, test=test.record())
    say(f"timm: {out}; largest difference of features {test.largest:.1g}.")


def _dinov2(state: dict[str, torch.Tensor], out: Path, backbone: Backbone, run_folder: Path) -> None:
    heads = backbone.model.blocks[0].attn.num_heads  # type: ignore[union-attr, index]
    with whole_folder(out) as folder:
        torch.save(state, folder / "dinov2.pth")
        found = read_released(folder / "dinov2.pth", heads=heads)
        again = timm.create_model(found.card.architecture, num_classes=0, **found.card.arguments).eval()
        again.load_state_dict(found.weights)
        test = self_test(backbone, by_torch(again), "the DINOv2 file", bound=EXACT)
        usage = f'torch.load("dinov2.pth", weights_only=True)\numbel import dinov2.pth FOLDER --heads {heads}'
        card = model_card(backbone, run_folder, kind="a state dict by DINOv2's names", usage=usage, test=test)
        finish(folder, card=card, test=test.record())
    say(f"dinov2: {out}; largest difference of features {test.largest:.1g}.")


def _onnx_and_bundle(
    config: ExportConfig, formats: tuple[str, ...], out: Path, backbone: Backbone, run_folder: Path, scratch: Path
) -> None:
    workers = int(choose_workers(config.workers, 1).value)
    shards = None
    if config.data is not None:
        shards = open_data(config.data, scratch / "shards", backbone.card.image_size, workers=config.workers)
    (scratch / "onnx").mkdir()
    work = make_onnx(
        backbone,
        scratch / "onnx",
        shards,
        int8=config.int8,
        need_labels="bundle" in formats,
        per_class=config.per_class,
        workers=workers,
    )
    if "onnx" in formats:
        _onnx(out / "onnx", backbone, run_folder, work)
    if "bundle" in formats and shards is not None:
        _bundle(out / "bundle", backbone, run_folder, work, shards)


def _onnx(out: Path, backbone: Backbone, run_folder: Path, work: OnnxWork) -> None:
    def write(folder: Path) -> list[Section]:
        shutil.copyfile(work.folder / FLOAT_FILE, folder / FLOAT_FILE)
        if work.gate is not None:
            shutil.copyfile(work.folder / INT8_FILE, folder / INT8_FILE)
        return []

    usage = 'session = onnxruntime.InferenceSession("model.onnx")\nsession.run(["features"], {"images": images})'
    _with_onnx(out, backbone, run_folder, work, write, kind="ONNX", usage=usage)
    say(f"onnx: {out}; any batch of images.")


def _bundle(out: Path, backbone: Backbone, run_folder: Path, work: OnnxWork, shards: ShardSet) -> None:
    from umbel.evaluation.exporting.bundle import bundle_section, write_bundle

    def write(folder: Path) -> list[Section]:
        return [bundle_section(write_bundle(folder, backbone, work, shards), shards)]

    usage = f"umbel predict {out.name} photo.jpg\npython {out.name}/predict.py photo.jpg   # onnxruntime, numpy, Pillow"
    _with_onnx(out, backbone, run_folder, work, write, kind="a bundle that names plants", usage=usage)
    say(f"bundle: {out}; `umbel predict {out} photo.jpg` names the plant.")


def _with_onnx(
    out: Path,
    backbone: Backbone,
    run_folder: Path,
    work: OnnxWork,
    write: Callable[[Path], list[Section]],
    *,
    kind: str,
    usage: str,
) -> None:
    with whole_folder(out) as folder:
        sections = write(folder)
        if work.gate is not None:
            sections.append(Section(title="8-bit model", lines=[f"{work.gate.words().capitalize()}."]))
        card = model_card(backbone, run_folder, kind=kind, usage=usage, test=work.test, sections=sections)
        finish(folder, card=card, test=work.record())
