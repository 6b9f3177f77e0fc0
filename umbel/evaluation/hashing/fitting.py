"""The two parts of a fit on photographs: heads on embedded views of the frozen encoder, then heads and adapters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umbel.backbones import Backbone
from umbel.backbones.text_tower import OpenClipText, TextTower
from umbel.data.index import ShardSet
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.adapted_folder import write_adapted
from umbel.evaluation.hashing.coder import HashCoder
from umbel.evaluation.hashing.fit import fit_crovca
from umbel.evaluation.hashing.fit_adapted import Words, both_towers, fit_adapted
from umbel.evaluation.hashing.fit_config import HashFitConfig
from umbel.evaluation.hashing.label_fields import labels_with_fields
from umbel.evaluation.hashing.lora import Adapted
from umbel.evaluation.hashing.pair_sources import texts_of
from umbel.evaluation.hashing.pairs import PairedCoder, fit_pairs
from umbel.evaluation.hashing.photograph_views import view_embeddings
from umbel.evaluation.hashing.stored_tower import BACKBONE, HERE, StoredTower
from umbel.evaluation.hashing.text_features import text_features
from umbel.run import UserError, say


class Fitting:
    """What a fit holds between its parts."""

    def __init__(
        self,
        config: HashFitConfig,
        backbone: Backbone,
        shards: ShardSet,
        tower: TextTower | None,
        device: torch.device,
        seen: tuple[Tensor, np.ndarray] | None = None,
    ) -> None:
        """
        Args:
            tower: reads the texts of a paired fit; None: they are read as letters.
            seen: what `view_embeddings` gives, where it was done before.
        """
        self.config, self.backbone, self.shards, self.tower, self.device = config, backbone, shards, tower, device
        self.words: Words | None = None
        self._seen = seen

    def heads(self) -> tuple[HashCoder | PairedCoder, int]:
        """Train the heads alone: for one epoch if adapters follow; and the number of photographs they saw.

        Raises:
            UserError: no labels or texts where they are needed.
        """
        config = self.config
        # With adapters the head's own part is one epoch, or as many steps as a head needs.
        crovca = dataclasses.replace(config.crovca, epochs=1) if config.lora.rank else config.crovca
        views, samples = self._seen or view_embeddings(
            self.backbone, self.shards, seed=config.seed, device=str(self.device), config=config.photographs
        )
        shared: dict[str, Any] = {"bits": config.bits, "seed": config.seed, "config": crovca}
        if config.pairs is not None:
            return self._paired_heads(views, samples, shared), len(samples)
        labels = self.labels
        return fit_crovca(views, labels=None if labels is None else labels[samples], **shared), len(samples)

    @functools.cached_property
    def labels(self) -> Tensor | None:
        """Of all samples: (N,) int64, -1 without, or (N, L) bool where fields are labels as well; None: not supervised.

        Raises:
            UserError: there are none.
        """
        fields = self.config.label_fields
        if not self.config.supervised:
            return None
        if fields:
            several = labels_with_fields(self.shards, np.arange(len(self.shards)), fields)
            say(f"{several.shape[1]:,} labels, {several.sum(1).mean():.1f} of them on a photograph.")
            return torch.from_numpy(several)
        label = self.shards.members["label"].astype(np.int64)
        if not (label >= 0).any():
            raise UserError(
                "none of the photographs has a label, which --supervised needs: give labeled shards with --data."
            )
        say(f"labels of {len(np.unique(label[label >= 0])):,} classes on {(label >= 0).sum():,} photographs.")
        return torch.from_numpy(label)

    def train(self, hasher: HashCoder | PairedCoder) -> tuple[Adapted, Adapted | None]:
        """Train heads and adapters together, in place; see `fit_adapted`."""
        coders = [hasher.coder, hasher.other] if isinstance(hasher, PairedCoder) else [hasher]
        return fit_adapted(
            self.config, self.backbone, self.shards, coders, device=self.device, labels=self.labels, words=self.words
        )

    def writer(
        self, hasher: HashCoder | PairedCoder, image: Adapted, text: Adapted | None
    ) -> Callable[[Path], dict[str, Any]]:
        """What writes the adapted backbone into the coder's folder, and has the coder read its texts by it."""

        def write(folder: Path) -> dict[str, Any]:
            both: tuple[OpenClipText, Adapted] | None = None
            if text is not None:
                assert isinstance(self.tower, OpenClipText)
                both = (self.tower, text)
            told = write_adapted(folder, self.backbone, image, both, f"{self.config.out}/{BACKBONE}")
            if both is not None:
                assert isinstance(hasher, PairedCoder)
                hasher.tower = StoredTower(HERE, both[0].sha256, loaded=both[0])
            return told

        return write

    def _paired_heads(self, views: Tensor, samples: np.ndarray, shared: dict[str, Any]) -> PairedCoder:
        what, tower = self.config.pairs, self.tower
        assert what is not None
        if tower is not None:
            tower.network.to(self.device)
        texts = texts_of(what, photographs_of(self.shards, samples), self.shards)
        features = texts.features(text_features if tower is None else tower.features).to(self.device)
        turns, things = features.shape[:2]
        say(f"{len(texts.rows):,} photographs with {turns * things:,} descriptions.")
        thing = np.full(len(self.shards), -1, np.int64)
        thing[samples[texts.rows]] = texts.of
        own = both_towers(self.backbone, tower)
        self.words = Words(texts=texts, thing=thing, features=None if own else features, tower=tower)
        stored = None if tower is None else StoredTower.of(tower)
        of = torch.from_numpy(texts.of)
        return fit_pairs(views[:, texts.rows], features, of, reads="text", tower=stored, **shared)


def photographs_of(shards: ShardSet, samples: np.ndarray) -> Embeddings:
    """Samples of shards with their keys, labels and splits, and without features."""
    splits = tuple(dict.fromkeys(shard.split for shard in shards.shards))
    of_shard = np.array([splits.index(shard.split) for shard in shards.shards])
    return Embeddings(
        features=np.empty((len(samples), 0), np.float32),
        label=shards.members["label"][samples].astype(np.int64),
        split=of_shard[shards.members["shard"][samples]],
        keys=tuple(shards.key(int(sample)) for sample in samples),
        splits=splits,
        classes=tuple(shards.classes),
    )
