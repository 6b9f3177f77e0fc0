"""Mixing sets of shards by weight: an epoch is a stated number of samples, each set passes through its own epochs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from umbel.data.order import Mix
from umbel.data.shard_set import ShardSet, concatenate
from umbel.run import UserError, say

LARGEST_WEIGHT = 1_000_000
"""And the smallest is one over it: cursors, which count the samples of all sets, stay 64-bit numbers."""
LONGEST_EPOCH = 10**12
"""Samples; for the same reason."""


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Other data that is mixed into a training set."""

    data: tuple[str, ...] = ()
    """Other sets to mix in, each given as DATA is."""
    weights: tuple[float, ...] = ()
    """Samples of each of them for one sample of DATA: 0.5 is every third sample with one other set."""
    epoch: int = 0
    """Samples of an epoch; 0: as many as one pass of DATA takes, the others' among them."""

    def __post_init__(self) -> None:
        if len(self.data) != len(self.weights):
            raise ValueError(f"mix.weights must be as many as mix.data: {len(self.data)}, not {len(self.weights)}")
        if not all(1 / LARGEST_WEIGHT <= weight <= LARGEST_WEIGHT for weight in self.weights):
            told = ", ".join(f"{weight:g}" for weight in self.weights)
            raise ValueError(f"mix.weights must lie between {1 / LARGEST_WEIGHT:g} and {LARGEST_WEIGHT:,}, not {told}")
        if self.epoch < 0 or (self.epoch and not self.data):
            raise ValueError("mix.epoch must not be negative, and needs mix.data")
        if self.epoch > LONGEST_EPOCH:
            raise ValueError(f"mix.epoch must be at most {LONGEST_EPOCH:,}, not {self.epoch}")


def mix_sets(sets: Sequence[ShardSet], config: MixConfig) -> ShardSet:
    """One set of several, read in turn by weight: exactly once in each pass of each set.

    Labels are kept where the sets name the same classes; otherwise they do not mean the same, and there are none.

    Args:
        sets: DATA's, then those of `config.data`.

    Raises:
        UserError: a set without samples.
    """
    if len(sets) == 1:
        return sets[0]
    if not all(map(len, sets)):
        raise UserError("a set without photographs cannot be mixed: leave it out.")
    shares = [Fraction(str(weight)) for weight in (1, *config.weights)]
    common = math.lcm(*(share.denominator for share in shares))
    weights = tuple(int(share * common) for share in shares)
    one = concatenate(sets)
    if len({part.classes for part in sets}) > 1:
        members = np.array(one.members)
        members["label"] = -1
        one = dataclasses.replace(one, members=members, classes=())
    epoch = config.epoch or math.ceil(len(sets[0]) * sum(weights) / weights[0])
    parts = [(part.folder, weight / sum(weights), len(part)) for part, weight in zip(sets, weights, strict=True)]
    told = ", ".join(f"{share:.1%} of {name} ({share * epoch / size:.3g} passes)" for name, share, size in parts)
    say(f"an epoch is {epoch:,} photographs: {told}.")
    return dataclasses.replace(
        one, mix=Mix(shards=tuple(len(part.shards) for part in sets), weights=weights, epoch=epoch)
    )
