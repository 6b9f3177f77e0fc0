"""The second part of a fit with adapters: heads that have learned alone go on together with the encoders' adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from umbel.backbones import Backbone
from umbel.backbones.text_tower import OpenClipText, TextTower
from umbel.data.index import ShardSet
from umbel.evaluation.hashing.coder import HashCoder
from umbel.evaluation.hashing.fit import members
from umbel.evaluation.hashing.fit_config import HashFitConfig
from umbel.evaluation.hashing.lora import Adapted
from umbel.evaluation.hashing.pair_sources import Texts
from umbel.evaluation.hashing.prototypes import Prototypes
from umbel.evaluation.hashing.train_adapters import train_adapters
from umbel.evaluation.hashing.train_coders import FitLog
from umbel.evaluation.hashing.view_stream import ViewBatch, view_batches
from umbel.run import say


@dataclass(frozen=True, kw_only=True)
class Words:
    """The texts of a paired fit."""

    texts: Texts
    thing: np.ndarray  # (all samples,) int64, which of the texts' M a sample belongs to; -1: none
    features: Tensor | None
    """(T, M, D) of the texts; None where their tower is adapted, and reads them anew."""
    tower: TextTower | None


def fit_adapted(
    config: HashFitConfig,
    backbone: Backbone,
    shards: ShardSet,
    coders: Sequence[HashCoder],
    *,
    device: torch.device,
    labels: Tensor | None = None,
    words: Words | None = None,
    log: FitLog | None = None,
) -> tuple[Adapted, Adapted | None]:
    """Train the coders and adapters together for all epochs but the first, in place.

    Args:
        coders: of the photographs, and of the words where there are some; they have learned alone.
        labels: supervised, of all samples: (N,) int64, -1 without, or (N, L) bool.

    Returns:
        The adapted image tower, and the text tower where `words` has no features of texts.
    """
    image = Adapted(backbone.model.to(device), config.lora, name=backbone.source, seed=config.seed)
    text: Adapted | None = None
    if words is not None and words.features is None:
        assert words.tower is not None
        tower = words.tower
        text = Adapted(
            tower.network.to(device), config.lora, name=tower.name, seed=config.seed + 1, without=tower.without
        )
    batch = min(config.crovca.batch, len(shards))
    epochs = range(1, config.crovca.epochs)
    classes = 0 if labels is None else labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    prototypes = Prototypes(classes, config.bits, memory=config.crovca.memory, device=device)

    def look(batch: ViewBatch, generator: torch.Generator) -> list[tuple[int, Tensor]]:
        if words is not None:
            return _photographs_and_words(batch, generator, image, words, device)
        views, count = batch.images.shape[:2]
        return [(0, seen) for seen in image.network(batch.images.flatten(0, 1)).view(views, count, -1)]

    def targets(logits: Tensor, batch: ViewBatch) -> Tensor | None:
        if labels is None:
            return None
        return prototypes.targets(logits, members(labels[batch.sample], classes).to(device))

    train_adapters(
        coders,
        [image] if text is None else [image, text],
        view_batches(
            backbone.card,
            shards,
            epochs=epochs,
            batch=batch,
            seed=config.seed,
            device=device,
            config=config.photographs,
        ),
        len(epochs) * (len(shards) // batch),
        look,
        seed=config.seed,
        device=device,
        config=config.crovca,
        lora=config.lora,
        targets=targets,
        log=log,
    )
    return image, text


def _photographs_and_words(
    batch: ViewBatch, generator: torch.Generator, image: Adapted, words: Words, device: torch.device
) -> list[tuple[int, Tensor]]:
    """One view of each photograph that has words, and one of its texts."""
    thing = torch.from_numpy(words.thing[batch.sample])
    good = thing >= 0
    if good.sum() < 2:
        return []
    thing = thing[good]
    turn = torch.randint(len(words.texts.texts[0]), (len(thing),), generator=generator)
    if words.features is not None:
        others = words.features[turn.to(device), thing.to(device)]
    else:
        assert words.tower is not None
        texts = [words.texts.texts[one][at] for one, at in zip(thing.tolist(), turn.tolist(), strict=True)]
        different = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        others = words.tower.encode(list(different))[[different[text] for text in texts]]
    return [(0, image.network(batch.images[0][good.to(device)])), (1, others)]


def both_towers(backbone: Backbone, tower: TextTower | None) -> bool:
    """Whether the text tower is that of the backbone's own model, so that both are adapted; said."""
    own = isinstance(tower, OpenClipText) and tower.name == backbone.source
    if tower is not None and not own:
        say(f"{tower.name} stays as it is: words' towers are adapted where they are the backbone's own.")
    return own
