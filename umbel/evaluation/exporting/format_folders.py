"""The folder of each format: its files, tested against the torch model, with card, self-test and sums."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from umbel.backbones import Backbone
from umbel.backbones.authors import read_released
from umbel.backbones.told_beside import write_beside
from umbel.data.shard_set import ShardSet
from umbel.evaluation.exporting.artifact import finish, whole_folder
from umbel.evaluation.exporting.asked import ASKED
from umbel.evaluation.exporting.card import Section, model_card
from umbel.evaluation.exporting.classifier_head import ClassifierHead
from umbel.evaluation.exporting.onnx_target import FLOAT_FILE, INT8_FILE
from umbel.evaluation.exporting.onnx_work import OnnxWork
from umbel.evaluation.exporting.self_test import EXACT, SelfTest, by_torch, self_test
from umbel.run import say


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where one format goes, and what it is made of."""

    out: Path
    """Its folder."""
    backbone: Backbone
    run: Path
    """The run folder, for the card."""
    asked: dict[str, Any]
    """What is asked for: see `asked_of`."""

    def finish(
        self,
        folder: Path,
        *,
        kind: str,
        usage: str,
        test: SelfTest,
        record: dict[str, Any],
        sections: Sequence[Section] = (),
    ) -> None:
        """Write card, self-test and sums into the folder that will be `out`."""
        card = model_card(self.backbone, self.run, kind=kind, usage=usage, test=test, sections=sections)
        finish(folder, card=card, test=record | {ASKED: self.asked})


def write_timm(target: Target, source: Path) -> None:
    """The timm folder, from the checkpoint's."""
    with whole_folder(target.out) as folder:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(source / name, folder / name)
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        test = self_test(target.backbone, by_torch(again), "the timm folder", bound=EXACT)
        usage = f'timm.create_model("local-dir:{target.out.name}", pretrained=True)'
        target.finish(folder, kind="a timm folder", usage=usage, test=test, record=test.record())
    say(f"timm: {target.out}; largest difference of features {test.largest:.1g}.")


def write_dinov2(target: Target, state: dict[str, torch.Tensor]) -> None:
    """A state dict by DINOv2's names, with a JSON of what it cannot tell."""
    card = target.backbone.card
    heads = target.backbone.model.blocks[0].attn.num_heads  # type: ignore[union-attr, index]
    with whole_folder(target.out) as folder:
        file = folder / "dinov2.pth"
        torch.save(state, file)
        # Beside it, as the file itself has no place for them that DINOv2's own loader would pass over.
        write_beside(file, heads=heads, mean=card.mean, std=card.std)
        found = read_released(file, heads=heads)
        again = timm.create_model(found.card.architecture, num_classes=0, **found.card.arguments).eval()
        again.load_state_dict(found.weights)
        test = self_test(target.backbone, by_torch(again), "the DINOv2 file", bound=EXACT)
        usage = f'torch.load("dinov2.pth", weights_only=True)\numbel import dinov2.pth FOLDER --heads {heads}'
        target.finish(folder, kind="a state dict by DINOv2's names", usage=usage, test=test, record=test.record())
    say(f"dinov2: {target.out}; largest difference of features {test.largest:.1g}.")


def write_onnx(target: Target, work: OnnxWork) -> None:
    """The ONNX files."""

    def write(folder: Path) -> list[Section]:
        shutil.copyfile(work.folder / FLOAT_FILE, folder / FLOAT_FILE)
        if work.gate is not None:
            shutil.copyfile(work.folder / INT8_FILE, folder / INT8_FILE)
        return []

    usage = 'session = onnxruntime.InferenceSession("model.onnx")\nsession.run(["features"], {"images": images})'
    _with_onnx(target, work, write, kind="ONNX", usage=usage)
    say(f"onnx: {target.out}; any batch of images.")


def write_bundle(
    target: Target, work: OnnxWork, shards: ShardSet | None, *, place: str, head: ClassifierHead | None = None
) -> None:
    """A bundle, of class means or of a run's own head.

    Args:
        shards: photographs that class means are made of.
        place: where they are from, for the card; not the shards that may have been made of them.
        head: instead of class means.

    Raises:
        ValueError: neither photographs nor a head.
    """
    from umbel.evaluation.exporting import bundle, head_bundle

    def write(folder: Path) -> list[Section]:
        if head is not None:
            return [
                head_bundle.head_section(head_bundle.write_head_bundle(folder, target.backbone, work, head, target.run))
            ]
        if shards is None:
            raise ValueError("a bundle needs photographs or a head")
        return [bundle.bundle_section(bundle.write_bundle(folder, target.backbone, work, shards), place)]

    out = target.out
    usage = f"umbel predict {out.name} photo.jpg\npython {out.name}/predict.py photo.jpg   # onnxruntime, numpy, Pillow"
    _with_onnx(target, work, write, kind="a bundle that names plants", usage=usage)
    say(f"bundle: {out}; `umbel predict {out} photo.jpg` names the plant.")


def _with_onnx(
    target: Target, work: OnnxWork, write: Callable[[Path], list[Section]], *, kind: str, usage: str
) -> None:
    with whole_folder(target.out) as folder:
        sections = write(folder)
        if work.gate is not None:
            sections.append(Section(title="8-bit model", lines=[f"{work.gate.words().capitalize()}."]))
        target.finish(folder, kind=kind, usage=usage, test=work.test, record=work.record(), sections=sections)
