"""What a distillation came to: the student beside its teacher, on photographs of val and test."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from umbel.backbones import Backbone, load
from umbel.data.index import ShardSet
from umbel.evaluation.answer_measures import Answers
from umbel.evaluation.classification import micro
from umbel.evaluation.embed import features_by
from umbel.evaluation.exporting.calibration import accepting, fit_head_temperature
from umbel.evaluation.exporting.classifier_head import ClassifierHead, head_of
from umbel.evaluation.exporting.labeled_rows import TEST, VALIDATION
from umbel.evaluation.extract import extract
from umbel.evaluation.multiply_adds import multiply_adds
from umbel.machine import choose_workers
from umbel.run import UserError, say, write_atomic
from umbel.run_folder import RunFolder
from umbel.ssl.distillation.config import DistillConfig
from umbel.ssl.distillation.photographs import columns_of, shards_of
from umbel.ssl.distillation.teacher import linear
from umbel.ssl.finetune_data import take_rows
from umbel.ssl.probe_set import ProbeConfig, open_probe
from umbel.ssl.teacher_probe import probe_teacher

FILE = "result.json"
SPLITS = {"val": VALIDATION, "test": TEST}
BATCH = 128
SHOTS, DRAWS = 5, 50
MEASURES = ("top1", "macro_top1", "top5", "calibration_error")


def write_outcome(
    config: DistillConfig, last: Path, teacher: Backbone, teacher_head: ClassifierHead | None, shards: ShardSet
) -> None:
    """Measure the student of the last checkpoint, unless that was done, and say what it is worth.

    Its classifier is calibrated by the split val, where there is one. Written is result.json:

    {"format": 1, "command": "distill", "student", "init", "teacher", "teach", "seed", "step", "image_size",
     "parameters", "multiply_adds", "few_shot": {"shots", "accuracy", "interval", "classes", "photographs",
     "unseen": whether its queries are of split test, ...} or null, "temperature": T or null, "splits": {"val" or
     "test": {"photographs", "student": M, "teacher": M or null, "agreement": E or null}}}, without a classifier no
     splits; M = {"top1": E, "macro_top1": E, "top5": E (more than 5 classes), "calibration_error": E}; E = {"value",
     "low", "high"}, shares with their 95 % intervals.

    Args:
        last: the checkpoint.
        shards: all photographs of DATA.
    """
    step, file = int(last.name.removeprefix("step-")), config.out / FILE
    if file.is_file() and json.loads(file.read_text()).get("step") == step:
        return
    student, head = load(last / "backbone"), head_of(last / "backbone")
    workers = int(choose_workers(config.reader.workers, 1).value)
    told: dict[str, Any] = {"format": 1, "command": "distill", "student": config.student, "init": config.init}
    told |= {"teacher": config.teacher, "teach": config.loss.uses_teacher, "seed": config.seed, "step": step}
    told |= {"image_size": student.card.image_size, "parameters": sum(p.numel() for p in student.model.parameters())}
    told["multiply_adds"] = multiply_adds(student.model, student.card.image_size)
    told["few_shot"] = few_shot(config, student, workers)
    if told["few_shot"] is not None:
        RunFolder(config.out).log("probes", {"step": step} | told["few_shot"])
    told |= {"temperature": None, "splits": {}}
    for split, names in SPLITS.items():
        part = part_of(shards, names, head)
        if part is None or head is None:
            continue
        own = answers(student, head, part, config.device, workers)
        if split == "val":
            head = calibrated(head, own, step)
            head.write(last)
            told["temperature"] = head.temperature
        found: dict[str, Any] = {"photographs": len(own.truth), "student": measures(own, head.temperature)}
        found |= {"teacher": None, "agreement": None}
        if teacher_head is not None and set(head.classes) <= set(teacher_head.classes):
            seen = answers(teacher, in_order(teacher_head, head.classes), part, config.device, workers)
            found["teacher"] = measures(seen, teacher_head.temperature)
            found["agreement"] = dataclasses.asdict(micro(own.logits.argmax(1) == seen.logits.argmax(1)))
        told["splits"][split] = found
        say(f"{split}, {found['photographs']:,} photographs: {in_words(found)}.")
    write_atomic(file, json.dumps(told, indent=1) + "\n")


def few_shot(config: DistillConfig, student: Backbone, workers: int) -> dict[str, Any] | None:
    """5-shot accuracy of the backbone, as pretraining's probe measures it; None where labels do not suffice."""
    asked = ProbeConfig(data=shards_of(config, config.out), shots=SHOTS, draws=DRAWS)
    try:
        probe = open_probe(asked, config.out / "probe-shards", student.card)
    except UserError as error:
        say(f"no few-shot accuracy: {error}")
        return None
    if probe is None:
        return None
    model = student.model.to(config.device).eval()
    told = probe_teacher(probe, model, device=config.device, workers=workers)
    unseen = any(probe.shards.shards[number].split in TEST for number in set(probe.shards.members["shard"].tolist()))
    if not unseen:
        say("there is no split test: the student was trained on photographs that its few-shot accuracy is of.")
    return None if told is None else told | {"unseen": unseen}


def part_of(shards: ShardSet, splits: tuple[str, ...], head: ClassifierHead | None) -> ShardSet | None:
    """The photographs of some splits whose class the head knows; None without any."""
    if head is None:
        return None
    split = np.array([shard.split for shard in shards.shards])[shards.members["shard"]]
    rows = np.flatnonzero(np.isin(split, splits) & (columns_of(shards, head.classes) >= 0))
    return take_rows(shards, rows) if len(rows) else None


def answers(backbone: Backbone, head: ClassifierHead, shards: ShardSet, device: str, workers: int) -> Answers:
    """Logits of photographs, prepared as the backbone is evaluated; damaged ones are left out."""
    forward, _ = features_by(backbone.model.to(device).eval(), device)
    layer = linear(head).to(device)

    def logits(images: Tensor) -> Tensor:
        found: Tensor = layer(forward(images).float())
        return found

    reading: dict[str, Any] = {"batch": BATCH, "workers": workers, "splits": None, "pin": device == "cuda"}
    made = extract(shards, backbone.transform, logits, provenance={}, title=None, **reading)
    place = {shards.key(sample): column for sample, column in enumerate(columns_of(shards, head.classes).tolist())}
    return Answers(logits=made.features, truth=np.array([place[key] for key in made.keys]))


def in_order(head: ClassifierHead, classes: tuple[str, ...]) -> ClassifierHead:
    """A head with some of its classes, in another order."""
    rows = [head.classes.index(name) for name in classes]
    return dataclasses.replace(head, weight=head.weight[rows], bias=head.bias[rows], classes=classes)


def calibrated(head: ClassifierHead, found: Answers, step: int) -> ClassifierHead:
    """The head with the temperature and threshold that photographs of the split val give."""
    temperature = fit_head_temperature(found.logits.astype(np.float64), found.truth)
    threshold = accepting(found.confidence(temperature))
    measured = {"step": step, "photographs": len(found.truth), "score": found.score()}
    return dataclasses.replace(head, temperature=temperature, threshold=threshold, measured=measured)


def measures(found: Answers, temperature: float) -> dict[str, Any]:
    """Accuracy, and calibration at a temperature."""
    made = found.measures(temperature, 0.0)
    return {name: dataclasses.asdict(made[name]) for name in MEASURES if name in made}


def in_words(found: dict[str, Any]) -> str:
    """A split's measures in one line."""
    names = {"top1": "top-1", "macro_top1": "macro top-1", "top5": "top-5", "calibration_error": "calibration error"}
    parts = [f"{names[name]} {_percent(estimate)}" for name, estimate in found["student"].items()]
    if found["teacher"]:
        parts.append(f"the teacher's top-1 {_percent(found['teacher']['top1'])}")
        parts.append(f"the same answer as the teacher {_percent(found['agreement'])}")
    return ", ".join(parts)


def _percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f}) %"
