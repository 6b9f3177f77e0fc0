"""Accuracy at higher levels of the classification, and how far off errors are; both from what the samples tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from umbel.evaluation.classification import micro
from umbel.evaluation.estimates import Estimate, bootstrap

LEVELS = ("genus", "family", "order", "class", "phylum", "kingdom")


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """The higher taxa of every class."""

    levels: tuple[str, ...]
    """From the lowest up."""
    taxa: np.ndarray  # (K, L) int64: the taxon of label k at level l; -1: not known

    @classmethod
    def of(cls, records: Mapping[int, Mapping[str, Any]], classes: int) -> Taxonomy | None:
        """From a record of each class; None where no level is told.

        Args:
            records: label -> the metadata of one of its samples.
            classes: K; labels lie below it.
        """
        levels = tuple(level for level in LEVELS if any(_name(record, level) for record in records.values()))
        if not levels:
            return None
        taxa = np.full((classes, len(levels)), -1, dtype=np.int64)
        for column, level in enumerate(levels):
            names = sorted({name for record in records.values() if (name := _name(record, level))})
            place = {name: number for number, name in enumerate(names)}
            for label, record in records.items():
                taxa[label, column] = place.get(_name(record, level), -1)
        return cls(levels=levels, taxa=taxa)

    def shared(self, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """(Q, L) bool: do the two classes, (Q,) each, share their taxon at the level? Unknown taxa are no one's."""
        same = (self.taxa[truth] == self.taxa[predicted]) & (self.taxa[truth] >= 0)
        shared: np.ndarray = same | (truth == predicted)[:, None]
        return shared

    def measure(self, truth: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """Accuracy at every level, and the mean distance of errors.

        The distance is the number of steps from the species up to the lowest level that both share: 1 for the same
        genus where genera are told, one more than there are levels where they share none.

        Args:
            truth, predicted: (Q,) classes.

        Returns:
            level -> Estimate, "levels", and "distance" -> Estimate where there are 2 errors at least.
        """
        # A query whose own taxon is not known says nothing about the level.
        shared, known = self.shared(truth, predicted), self.taxa[truth] >= 0
        found: dict[str, Any] = {
            level: micro(shared[known[:, column], column])
            for column, level in enumerate(self.levels)
            if known[:, column].any()
        }
        wrong = truth != predicted
        # Taxa are nested: a genus stands for its family even where the family is not told.
        apart = shared[wrong].any(1)
        steps = np.where(apart, shared[wrong].argmax(1), len(self.levels)) + 1
        if len(steps) > 1:
            found["distance"] = bootstrap(lambda rows: float(steps[rows].mean()), len(steps), seed=0, resamples=1000)
        return found | {"levels": list(self.levels)}


def in_words(measured: Mapping[str, Any], levels: Sequence[str] = ("genus", "family")) -> list[str]:
    """Sentences of what was measured."""
    told = [f"{level} {measured[level]}" for level in levels if level in measured]
    distance = measured.get("distance")
    if isinstance(distance, Estimate):
        steps = f"{distance.value:.2f} ({distance.low:.2f} to {distance.high:.2f})"
        told.append(f"errors are {steps} steps off (1: the same {measured['levels'][0]})")
    return told


def _name(record: Mapping[str, Any], level: str) -> str:
    """A taxon's name; "" where it is not told."""
    value = record.get(level)
    return value.strip() if isinstance(value, str) else ""
