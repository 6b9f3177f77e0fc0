"""What is measured on frozen features: the choice of probes and their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Probe = Literal["centroid", "knn", "episodes", "logistic", "linear", "open-set", "label-free"]
PROBES: tuple[Probe, ...] = get_args(Probe)


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Measurements of one kind of features. Nearest centroid and k-NN are always made: they cost little."""

    shots: tuple[int, ...] = (5,)
    """Support images of each class; the first is the one that rows and comparisons tell."""
    draws: int = 50
    """Draws of the support, 2 at least: an interval needs them."""
    k: int = 20
    """Neighbors that vote."""
    seed: int = 0
    """Seed of all draws."""
    probes: tuple[Probe, ...] = ("centroid", "knn")
    """What is measured."""
    episodes: int = 600
    """Episodes, 2 at least."""
    ways: int = 20
    """Species of an episode."""

    def __post_init__(self) -> None:
        if not self.shots or len(set(self.shots)) < len(self.shots):
            raise ValueError(f"shots must be different numbers, not {self.shots}")
        if min(self.shots) < 1:
            raise ValueError(f"shots must be at least 1, not {min(self.shots)}")
        for name, low in (("draws", 2), ("k", 1), ("seed", 0), ("episodes", 2), ("ways", 2)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
