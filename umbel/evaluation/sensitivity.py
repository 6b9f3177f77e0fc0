"""How far each augmentation at each strength moves an embedding, measured by the distance between species.

Movement 1: as far as to a photograph of another species, on average. What moves embeddings far touches what this
backbone tells species apart by; whether it harms training, only training shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umbel.augment.photometric import whole_levels
from umbel.backbones import Backbone
from umbel.data.index import ShardSet
from umbel.evaluation.embed import features_by
from umbel.evaluation.extract import extract
from umbel.evaluation.sensitivity_measure import TOO_FEW, Sensitivity, compare
from umbel.evaluation.sensitivity_operations import DRAWS, Change, changes
from umbel.run import UserError

# Photographs in a batch; all their changes are embedded one after the other.
BATCH = 32


def choose_photographs(label: np.ndarray, count: int, *, seed: int) -> NDArray[np.int64]:
    """Rows of at most `count` labeled photographs, drawn by the seed: two of every species first, then the third, ...

    Where two of every species are more than `count`, some species are left out. Species with one photograph are left
    out: it would have no centroid without itself.

    Args:
        label: (N,) -1 without.
        count: 4 or more.

    Returns:
        (n,) sorted rows.

    Raises:
        UserError: fewer than two species with two photographs.
    """
    generator = np.random.default_rng([seed, 0])
    rows = generator.permutation(np.flatnonzero(label >= 0))
    _, species, counts = np.unique(label[rows], return_inverse=True, return_counts=True)
    kept = generator.permutation(np.flatnonzero(counts > 1))[: count // 2]
    if len(kept) < 2:
        raise UserError(TOO_FEW)
    inside = np.isin(species, kept)
    rows, species = rows[inside], species[inside]
    turn = np.zeros(len(rows), dtype=np.int64)
    for one in kept:
        turn[species == one] = np.arange((species == one).sum())
    return np.sort(rows[np.argsort(turn, kind="stable")][:count])


def sensitivity(
    backbone: Backbone,
    shards: ShardSet,
    *,
    photographs: int,
    seed: int,
    device: str,
    workers: int = 0,
    asked: Sequence[Change] | None = None,
) -> Sensitivity:
    """Embed photographs as they are and after each change, and compare.

    A change is made on the photograph in [0, 1] at the backbone's input size, before its normalization.

    Args:
        photographs: at most so many, as many of each species.

    Raises:
        UserError: too few labels, or nothing can be embedded.
    """
    every = changes() if asked is None else tuple(asked)
    rows = choose_photographs(shards.members["label"], photographs, seed=seed)
    chosen = dataclasses.replace(shards, members=shards.members[rows], keys=shards.keys[rows], mix=None)
    forward = _Embedding(backbone, every, seed=seed, device=device)
    made = extract(
        chosen,
        backbone.transform,
        forward,
        provenance={},
        batch=BATCH,
        workers=workers,
        splits=None,
        title="changing photographs",
    )
    features = made.features.reshape(len(made), 1 + len(every), -1).transpose(1, 0, 2)
    return compare(features[0], features[1:], made.label, every, seed=seed)


class _Embedding:
    """Prepared photographs (B, 3, H, W) -> (B, (1 + changes) C): their own features, then those after each change."""

    def __init__(self, backbone: Backbone, every: Sequence[Change], *, seed: int, device: str) -> None:
        self.forward, _ = features_by(backbone.model.to(device).eval(), device)
        self.every, self.device = every, device
        self.mean, self.std = (
            torch.tensor(values, device=device).view(3, 1, 1) for values in (backbone.card.mean, backbone.card.std)
        )
        # Changes of one strength and another draw the same directions and places: strengths are compared in pairs.
        self.generator = np.random.default_rng([seed, 1])

    def __call__(self, images: Tensor) -> Tensor:
        # The transform ends in a normalization of whole levels: they are had back exactly.
        photographs = whole_levels((images.to(self.device) * self.std + self.mean).clamp(0, 1))
        uniforms = self.generator.random((len(images), DRAWS))
        found = [self._features(photographs)]
        found += [self._features(change.apply(photographs, uniforms)) for change in self.every]
        return torch.cat(found, dim=1)

    def _features(self, images: Tensor) -> Tensor:
        return self.forward((images - self.mean) / self.std).float()
