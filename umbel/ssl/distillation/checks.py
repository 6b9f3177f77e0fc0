"""What must hold before a distillation begins: between losses and teacher, teacher and student, classes and labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from umbel.backbones import Backbone
from umbel.evaluation.exporting.classifier_head import ClassifierHead
from umbel.evaluation.reading import weights_sha256
from umbel.run import UserError, rank, read_json, write_atomic
from umbel.run_folder import RunFolder
from umbel.ssl.distillation.config import DistillConfig
from umbel.ssl.distillation.features import Shape, shape_of
from umbel.ssl.distillation.loss_config import OF_LOGITS

FORMAT = 1
FILE = "teacher.json"


def check_head(config: DistillConfig, head: ClassifierHead | None) -> None:
    """Refuse losses of logits for a teacher that gives none.

    Raises:
        UserError: it has no classifier.
    """
    if config.loss.needs_logits and head is None:
        asked = " and ".join(f"loss.{name}" for name in OF_LOGITS if name in config.loss.active)
        raise UserError(
            f"teacher {config.teacher} has no classifier, which {asked} needs: give a run of umbel finetune, or leave "
            "it at 0."
        )


def check_shapes(config: DistillConfig, student: Any, teacher: Backbone) -> tuple[Shape, Shape]:
    """The widths of student and teacher at their sizes.

    Raises:
        UserError: one of them does not take images of its size, or has no grid where loss.patches compares grids.
    """
    sides = (config.views.size, teacher.card.image_size)
    names = (f"--student {config.student}", f"teacher {config.teacher}")
    training = student.training
    student.eval()  # batch norm would learn from an image that is none
    found = [shape_of(net, name, side) for net, name, side in zip((student, teacher.model), names, sides, strict=True)]
    student.train(training)
    for shape, name in zip(found, names, strict=True):
        if "patches" in config.loss.active and shape.grid is None:
            raise UserError(f"{name} has no grid of patch features: set --loss.patches 0.")
    return found[0], found[1]


def other_teacher(run: RunFolder, asked: Mapping[str, Any]) -> str | None:
    """Why a run cannot be continued with this teacher; None where it can.

    Raises:
        UserError: the record of its teacher cannot be read.
    """
    file = run.path / FILE
    if not file.is_file():
        return None
    told = read_json(file, "the record of the teacher")
    for name, other in (("sha256", "other weights"), ("head_sha256", "another classifier")):
        if told.get(name) != asked[name]:
            return f"was begun with another teacher ({told['source']} with {other} than {asked['source']})"
    return None


def teacher_facts(teacher: Backbone, head: ClassifierHead | None) -> dict[str, Any]:
    """What makes a teacher the same: its weights, and those of its classifier; None without one."""
    facts: dict[str, Any] = {"source": teacher.source, "sha256": weights_sha256(teacher), "head_sha256": None}
    if head is not None:
        digest = hashlib.sha256(json.dumps([head.classes, head.temperature]).encode())
        for part in (head.weight, head.bias):
            digest.update(np.ascontiguousarray(part, dtype=np.float32).tobytes())
        facts["head_sha256"] = digest.hexdigest()
    return facts


def forget_teacher(run: RunFolder) -> None:
    """Take the record back where nothing was begun: another teacher must not be refused for it."""
    if rank() == 0 and not (run.path / "run.json").exists():
        (run.path / FILE).unlink(missing_ok=True)


def note_teacher(run: RunFolder, asked: Mapping[str, Any]) -> None:
    """Write down which teacher a run has."""
    if rank() == 0:
        write_atomic(run.path / FILE, json.dumps({"format": FORMAT, **asked}, indent=1) + "\n")
