"""What changes do to embeddings in numbers: movement by the distance between species, centroids that change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umbel.evaluation.sensitivity_operations import Change
from umbel.run import UserError

RESAMPLES = 1000
# A distance below this is rounding.
NOTHING = 1e-9
TOO_FEW = "sensitivity needs two species with two labeled photographs each: give more as --data."


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What one operation at one strength does to the embeddings; shares between 0 and 1."""

    operation: str
    strength: float
    unit: str
    """What the strength says, in words; empty for an operation without strengths."""
    label: str
    """The strength for people."""
    movement: float
    """Mean cosine distance from the photograph, divided by the mean distance between species."""
    movement_interval: tuple[float, float]
    """95 %, by bootstrap over photographs."""
    changed: float
    """Share of photographs whose nearest species centroid becomes another one."""
    changed_interval: tuple[float, float]
    accuracy: float
    """Share whose nearest centroid is that of their own species."""

    @property
    def name(self) -> str:
        """Operation and strength in words."""
        return f"{self.operation} ({self.unit} {self.label})".replace("± ", "±") if self.unit else self.operation


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Every operation at every strength, on the same photographs."""

    photographs: int
    species: int
    between_species: float
    """Mean cosine distance between photographs of different species: the unit of movement."""
    accuracy: float
    """Share of unchanged photographs whose nearest centroid (leave-one-out) is that of their own species."""
    chance: float
    """1 / species, as photographs are balanced."""
    moved: tuple[Moved, ...]
    """In the order of the changes: operation by operation, from mild to strong."""


def compare(
    originals: np.ndarray, changed: np.ndarray, label: np.ndarray, every: Sequence[Change], *, seed: int
) -> Sensitivity:
    """Movement and change of the nearest centroid, in float64.

    Args:
        originals: (N, C) features; changed: (T, N, C) of the same photographs after each of `every`; label: (N,).

    Raises:
        UserError: fewer than two species with two photographs (damaged ones may have been left out).
    """
    _, species, counts = np.unique(label, return_inverse=True, return_counts=True)
    if len(counts) < 2 or counts.min() < 2:
        kept = np.isin(species, np.flatnonzero(counts > 1))
        if len(np.unique(species[kept])) < 2:
            raise UserError(TOO_FEW)
        return compare(originals[kept], changed[:, kept], label[kept], every, seed=seed)
    start = _normalized(originals.astype(np.float64))
    different = (species[:, None] != species).astype(np.float64)
    distance = (1 - start @ start.T) * different
    # Each resample as how often it takes every photograph: (R, N).
    draws = np.random.default_rng([seed, 2]).integers(0, len(start), (RESAMPLES, len(start)))
    taken = np.stack([np.bincount(draw, minlength=len(start)) for draw in draws]).astype(np.float64)
    pairs = ((taken @ different) * taken).sum(1)
    # A resample of one species alone, possible among a handful of photographs, has no distance between species.
    taken, pairs = taken[pairs > 0], pairs[pairs > 0]
    units = ((taken @ distance) * taken).sum(1) / pairs
    unit = float(distance.sum() / different.sum())
    if not unit > NOTHING:
        raise UserError("the backbone embeds photographs of different species alike: there is no distance to compare.")
    near = nearest_species(start, start, species)
    moved = []
    for change, features in zip(every, changed, strict=True):
        end = _normalized(features.astype(np.float64))
        # 1 - cosine, without the rounding that would let it fall below 0.
        far = ((start - end) ** 2).sum(1) / 2
        now = nearest_species(start, end, species)
        other = (now != near).astype(np.float64)
        moved.append(
            Moved(
                operation=change.operation,
                strength=change.strength,
                unit=change.unit,
                label=change.label,
                movement=float(far.mean()) / unit,
                movement_interval=_middle(taken @ far / len(start) / units),
                changed=float(other.mean()),
                changed_interval=_middle(taken @ other / len(start)),
                accuracy=float((now == species).mean()),
            )
        )
    return Sensitivity(
        photographs=len(start),
        species=len(counts),
        between_species=unit,
        accuracy=float((near == species).mean()),
        chance=1 / len(counts),
        moved=tuple(moved),
    )


def nearest_species(start: np.ndarray, asked: np.ndarray, species: np.ndarray) -> NDArray[np.int64]:
    """(N,) the species whose centroid is nearest to each of `asked`, as the few-shot probe finds it, leave-one-out.

    Photograph i is left out of its own species' centroid, when its changed one is asked for too. Features are centered
    by the mean of all originals and normalized again.

    Args:
        start: (N, C) of length 1, originals; asked: (N, C) of length 1; species: (N,) from 0, two of each at least.
    """
    center = start.mean(0)
    start, asked = _normalized(start - center), _normalized(asked - center)
    member = np.eye(species.max() + 1)[species]
    counts, sums = member.sum(0), member.T @ start
    centroids = sums / counts[:, None]
    squares = (centroids**2).sum(1) - 2 * asked @ centroids.T
    own = (sums[species] - start) / (counts[species] - 1)[:, None]
    squares[np.arange(len(species)), species] = (own**2).sum(1) - 2 * (asked * own).sum(1)
    nearest: NDArray[np.int64] = squares.argmin(1)
    return nearest


def _normalized(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    result: np.ndarray = features / np.maximum(lengths, 1e-12)
    return result


def _middle(values: np.ndarray) -> tuple[float, float]:
    """Where the middle 95 % lie."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
