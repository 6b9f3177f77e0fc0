"""The photographs on which the teacher is probed while it is trained, and how often: chosen once, before training."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm.data

from umbel.backbones.folder import ModelCard
from umbel.data.index import ShardSet
from umbel.evaluation.extract import Prepare, open_data
from umbel.evaluation.fewshot import left_out_classes, nearest_centroid
from umbel.evaluation.probe_rows import QUERIES, SUPPORT
from umbel.run import UserError, rank, say

MOST_PROBES = 20
SEED = 0
"""Of the photographs and of the draws; `umbel probe` draws by the same one."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Few-shot accuracy of the teacher during training, on photographs with labels; it leaves training as it is."""

    data: str | None = None
    """Labeled shards or class folders of photographs for few-shot accuracy during training; none: it is not measured.
    The first process measures while the others wait."""
    every_epochs: float = 0.0
    """Epochs between probes; 0: one an epoch, twenty at most. Before the first and after the last step there is one."""
    shots: int = 5
    """Support images of each class."""
    draws: int = 20
    """Draws of the support."""
    limit: int = 50
    """Photographs of each class at most, of support and of queries each: it bounds what a probe costs."""

    def __post_init__(self) -> None:
        if not 0 <= self.every_epochs < math.inf:
            raise ValueError(f"probe.every_epochs must be a number from 0, not {self.every_epochs:g}")
        # An interval needs two draws, a class at least one query.
        for name, low in (("shots", 1), ("draws", 2)):
            if getattr(self, name) < low:
                raise ValueError(f"probe.{name} must be at least {low}, not {getattr(self, name)}")
        if self.limit <= self.shots:
            raise ValueError(f"probe.limit must be greater than probe.shots, not {self.limit} for {self.shots}")

    def steps(self, steps_per_epoch: int, total_steps: int) -> int:
        """Optimizer steps from probe to probe."""
        if self.every_epochs:
            return max(1, round(self.every_epochs * steps_per_epoch))
        return max(steps_per_epoch, math.ceil(total_steps / MOST_PROBES))


@dataclass(frozen=True, kw_only=True)
class ProbeSet:
    """What is probed, the same photographs every time."""

    config: ProbeConfig
    shards: ShardSet
    """Only the photographs that are embedded; the shards' own counts are of all."""
    classes: int
    """Classes with photographs enough."""
    prepare: Prepare

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the photographs that are embedded."""
        return self.shards.fingerprint()


def open_probe(config: ProbeConfig, folder: Path, card: ModelCard) -> ProbeSet | None:
    """Open what is probed; None where nothing is asked for, and on all ranks but 0.

    Args:
        folder: where shards are made if the data are a folder of photographs.
        card: the backbone's, for the size and the preparation of its images.

    Raises:
        UserError: no such data, no labels, or fewer than 2 classes with photographs enough.
    """
    if config.data is None or rank() != 0:
        return None
    shards = open_data(config.data, folder, card.image_size).select((*SUPPORT, *QUERIES))
    label = shards.members["label"].astype(np.int64)
    if not (label >= 0).any():
        raise UserError(
            f"--probe.data {config.data}: the photographs have no labels; give class folders, or shards with .cls "
            "members."
        )
    chance = np.random.default_rng(SEED)
    support, queries = (_at_most(rows, label, config.limit, chance) for rows in _sides(shards))
    asked: dict[str, Any] = {"query_labels": label[queries]} if len(queries) else {}
    blank = {"queries": np.zeros((len(queries), 1))} if len(queries) else {}
    try:
        # On blank features: labels that do not suffice are told before training, not after its first step.
        nearest_centroid(
            np.zeros((len(support), 1)), label[support], shots=config.shots, draws=1, seed=SEED, **asked, **blank
        )
    except ValueError as error:
        raise UserError(f"--probe.data {config.data} cannot be probed: {error}.") from error
    left_out = left_out_classes(label[support], shots=config.shots, **asked)
    classes = len(set(label[support].tolist()) - set(left_out))
    rows = np.sort(np.concatenate([support, queries]))
    told = f", {len(left_out)} too small ones left out" if left_out else ""
    say(f"probe: {config.shots}-shot accuracy on {len(rows)} photographs of {classes} classes in {config.data}{told}.")
    preparation = timm.data.resolve_data_config(pretrained_cfg=card.config()["pretrained_cfg"])
    return ProbeSet(
        config=config,
        shards=dataclasses.replace(shards, members=shards.members[rows], keys=shards.keys[rows]),
        classes=classes,
        prepare=timm.data.create_transform(**preparation, is_training=False),
    )


def _sides(shards: ShardSet) -> tuple[np.ndarray, np.ndarray]:
    """Labeled rows of train and val, and those of test; where one is lacking, all labeled rows and none."""
    labeled = shards.members["label"] >= 0
    asked = np.array([shard.split in QUERIES for shard in shards.shards])[shards.members["shard"]]
    support, queries = np.flatnonzero(labeled & ~asked), np.flatnonzero(labeled & asked)
    return (support, queries) if len(support) and len(queries) else (np.flatnonzero(labeled), queries[:0])


def _at_most(rows: np.ndarray, label: np.ndarray, limit: int, chance: np.random.Generator) -> np.ndarray:
    """At most `limit` rows of each class, drawn."""
    drawn = chance.permutation(rows)
    by_class = drawn[np.argsort(label[drawn], kind="stable")]
    _, starts, counts = np.unique(label[by_class], return_index=True, return_counts=True)
    place = np.arange(len(rows)) - np.repeat(starts, counts)
    kept: np.ndarray = by_class[place < limit]
    return kept
