"""What a distillation trains on: photographs of some splits, with their labels where a loss needs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from umbel.data.balance import ClassBalance
from umbel.data.index import PRETRAINING_SPLITS, ShardSet, find_shards, open_shards
from umbel.data.make import MakeFolderConfig, make_folder
from umbel.evaluation.exporting.classifier_head import ClassifierHead
from umbel.run import UserError, say
from umbel.run_folder import RunFolder
from umbel.ssl.crowd_labels import read_soft, read_told, soft_targets, weights_of
from umbel.ssl.distillation.config import DistillConfig
from umbel.ssl.targets import Targets

LABELED = ("train",)


def shards_of(config: DistillConfig, run: Path) -> str:
    """DATA's shards, or the run's own, which are made of a folder of photographs."""
    return config.data if find_shards(config.data) else str(run / "shards")


def open_photographs(config: DistillConfig, folder: RunFolder) -> tuple[ShardSet, ShardSet]:
    """All photographs of DATA, and those to train on; a folder is made into shards in the run folder first.

    Raises:
        UserError: no such data, or nothing to train on.
    """
    data = shards_of(config, folder.path)
    if data != config.data:
        make_folder(
            MakeFolderConfig(data=Path(config.data), out=Path(data), max_bad=config.reader.max_bad, seed=config.seed)
        )
    shards = open_shards(data, cache_gib=config.reader.cache_gib, allow_pipe=config.reader.allow_pipe)
    with_labels = "labels" in config.loss.active
    asked = ("labeled" if with_labels else "all") if config.photographs == "auto" else config.photographs
    there = {shard.split for shard in shards.shards}
    splits = [split for split in (LABELED if asked == "labeled" else PRETRAINING_SPLITS) if split in there]
    if not splits:
        raise UserError(f"--data {config.data} has no split {' or '.join(PRETRAINING_SPLITS)} to train on.")
    chosen = shards.select(splits)
    reason = "as asked"
    if config.photographs == "auto":
        reason = "a loss needs labels" if with_labels else "no loss needs labels"
    say(f"{len(chosen):,} photographs of {' and '.join(splits)}: {reason}.")
    return shards, chosen


def classes_of(config: DistillConfig, head: ClassifierHead | None, shards: ShardSet) -> tuple[str, ...]:
    """The names of the student's classes: the teacher's, where its logits are learned, else those of the labels.

    Args:
        shards: the photographs that are trained on.

    Raises:
        UserError: there are too few, or the teacher does not know all of them.
    """
    if not config.loss.classifies:
        return ()
    label = shards.members["label"].astype(np.int64)
    named = tuple(shards.classes[number] for number in np.unique(label[label >= 0])) if shards.classes else ()
    if "labels" in config.loss.active and len(named) < 2:
        raise UserError(
            f"--data {config.data} has labels of {len(named)} classes in the split train, and loss.labels needs two or "
            "more: give class folders, or shards with .cls members."
        )
    if not config.loss.needs_logits or head is None:
        return named
    foreign = [name for name in named if name not in head.classes]
    if "labels" in config.loss.active and foreign:
        raise UserError(
            f"teacher {config.teacher} does not know {len(foreign)} of the classes of --data {config.data} (the first: "
            f"{foreign[0]}): fine-tune it on these data, or set --loss.labels 0."
        )
    return head.classes


def columns_of(shards: ShardSet, classes: Sequence[str]) -> np.ndarray:
    """(N,) int64: the place of each photograph's class among `classes`, by name; -1 without."""
    place = {name: column for column, name in enumerate(classes)}
    of_label = np.array([*(place.get(name, -1) for name in shards.classes), -1], dtype=np.int64)
    label = shards.members["label"].astype(np.int64)
    return of_label[np.where(label < 0, len(shards.classes), label)]


def targets_of(config: DistillConfig, shards: ShardSet, classes: Sequence[str]) -> Targets:
    """The photographs' labels and weights; one without label or soft labels counts for nothing in the cross-entropy.

    The weights of those that count are 1 on average.

    Raises:
        UserError: weights or soft labels that cannot be had.
    """
    column = columns_of(shards, classes)
    labeled, soft = column >= 0, None
    weight = np.ones(len(shards), dtype=np.float32)
    if config.labels.soft is not None or config.labels.weight != "none":
        told = read_told(shards)
        weight = weights_of(told, config.labels.weight, shards)
        if config.labels.soft is not None:
            soft = soft_targets(read_soft(config.labels.soft), told, shards, classes)
            labeled[list(soft)] = True
    if not labeled.all():
        say(f"{int((~labeled).sum()):,} of {len(shards):,} photographs have no label: the teacher alone teaches them.")
    if (mean := weight[labeled].mean() if labeled.any() else 0) > 0:
        weight = weight / mean
    return Targets(
        label=np.maximum(column, 0),
        classes=len(classes),
        weight=weight * labeled,
        smoothing=config.labels.smoothing,
        soft=soft,
    )


def balance_of(config: DistillConfig, shards: ShardSet) -> ClassBalance | None:
    """How often each photograph comes, where that is not once.

    Raises:
        UserError: some have no label.
    """
    if not config.labels.balance:
        return None
    label = shards.members["label"].astype(np.int64)
    if (label < 0).any():
        raise UserError(
            "labels.balance needs a label on every photograph: set --photographs labeled, or leave it at 0."
        )
    return ClassBalance(label, power=config.labels.balance, seed=config.seed)
