"""The photographs that a classifier learns from, is validated on and measured on, by the splits of labeled shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from umbel.data.folder import read_folder
from umbel.data.shard_set import ShardSet
from umbel.evaluation.exporting.labeled_rows import TEST, VALIDATION
from umbel.evaluation.holdout import hold_out
from umbel.run import UserError, say

TRAIN = ("train",)


@dataclass(frozen=True, kw_only=True)
class LabeledPart:
    """Photographs with the columns of their classes."""

    shards: ShardSet
    columns: np.ndarray  # (N,) int64, 0 .. K - 1


@dataclass(frozen=True, kw_only=True)
class FinetuneData:
    """What the splits give."""

    train: LabeledPart
    validation: LabeledPart
    test: LabeledPart | None
    classes: tuple[str, ...]
    """Of the training photographs, K of them."""
    words: str
    """Where the validation photographs come from."""


def divide(shards: ShardSet, place: str, *, share: float, seed: int) -> FinetuneData:
    """Divide labeled photographs; without a split val a share of each class of train is held out.

    Args:
        place: where they are from, for what is said.

    Raises:
        UserError: no labels, one class, no split train, or a class of one photograph where some are held out.
    """
    label = shards.members["label"].astype(np.int64)
    split = np.array([shard.split for shard in shards.shards])[shards.members["shard"]]
    check_labels(label, split, shards.classes, place)
    labeled = label >= 0
    train = labeled & np.isin(split, TRAIN)
    validation = labeled & np.isin(split, VALIDATION)
    test = labeled & np.isin(split, TEST)
    bare = int((~labeled & np.isin(split, TRAIN)).sum())
    if bare:
        say(f"{bare:,} photographs of train have no label and are left out.")
    known = np.unique(label[train])
    words, given = "split val", validation.any()
    # What no class of train could be the answer to measures nothing.
    for name, part_of_split in (("val", validation), ("test", test)):
        foreign = int((part_of_split & ~np.isin(label, known)).sum())
        part_of_split &= np.isin(label, known)
        if foreign:
            say(f"{foreign:,} photographs of {name} are of classes that train has not, and are left out.")
    if not validation.any():
        rows = np.flatnonzero(train)
        aside = rows[hold_out(label[rows], share=share, seed=seed)]
        train[aside], validation[aside] = False, True
        words = f"{share:.0%} of every class, held out of train"
        missing = "nothing is left of split val" if given else "there is no split val to validate on"
        say(f"{missing}: {words} ({len(aside):,} photographs), takes its place.")

    def part(chosen: np.ndarray) -> LabeledPart:
        rows = np.flatnonzero(chosen)
        return LabeledPart(shards=take_rows(shards, rows), columns=np.searchsorted(known, label[rows]))

    counts = np.unique(label[train], return_counts=True)[1]
    told = f"{len(known)} classes: {int(train.sum()):,} photographs to learn from ({counts.min()} to {counts.max()} a "
    say(f"{told}class), {int(validation.sum()):,} to validate on, {int(test.sum()):,} to test on.")
    return FinetuneData(
        train=part(train),
        validation=part(validation),
        test=part(test) if test.any() else None,
        classes=tuple(shards.classes[int(number)] for number in known),
        words=words,
    )


def check_labels(label: np.ndarray, split: np.ndarray, classes: Sequence[str], place: str) -> None:
    """Refuse labels that nothing can be learned from.

    Args:
        label: (N,) int64, -1: none; split: (N,) names.

    Raises:
        UserError: see `divide`.
    """
    labeled = label >= 0
    if not labeled.any() or not classes:
        raise UserError(f"{place} has no labels: give class folders, or shards with .cls members and a classes.txt.")
    train = labeled & np.isin(split, TRAIN)
    if not train.any():
        there = ", ".join(sorted(set(split[labeled].tolist())))
        raise UserError(f"{place} has labeled photographs of {there} alone: fine-tuning learns from split train.")
    known, counts = np.unique(label[train], return_counts=True)
    if len(known) < 2:
        raise UserError(f"{place} has training photographs of one class: a classifier needs two or more.")
    if not (np.isin(label, known) & np.isin(split, VALIDATION)).any() and counts.min() < 2:
        alone = classes[int(known[counts.argmin()])]
        raise UserError(
            f"class '{alone}' has one photograph, and there is no split val: add photographs, take the class out, "
            "or make a split val."
        )


def check_folder_labels(folder: Path) -> None:
    """Refuse a folder of photographs for its labels before shards are made of it; raises UserError."""
    found = read_folder(folder, TRAIN[0])
    rows = [(split, row.label) for split, part in found.splits.items() for row in part]
    label = np.array([-1 if label is None else label for _, label in rows])
    check_labels(label, np.array([split for split, _ in rows]), found.classes, str(folder))


def take_rows(shards: ShardSet, rows: np.ndarray) -> ShardSet:
    """Some samples of a set, in their order, ready for training: shards count what is left of them, if anything."""
    members = np.array(shards.members[rows])
    there, place = np.unique(members["shard"], return_inverse=True)
    members["shard"] = place
    counts = np.bincount(place, minlength=len(there)).tolist()
    kept = tuple(
        dataclasses.replace(shards.shards[number], count=count)
        for number, count in zip(there.tolist(), counts, strict=True)
    )
    return dataclasses.replace(shards, shards=kept, members=members, keys=np.asarray(shards.keys[rows]))
