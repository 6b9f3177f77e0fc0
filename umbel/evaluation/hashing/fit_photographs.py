"""`umbel hash fit` on photographs: a coder of augmented views, with the encoder frozen or with adapters."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from umbel.backbones import Backbone
from umbel.data.folder import check_shards
from umbel.data.index import ShardSet, open_shards
from umbel.evaluation.embed import preprocessing, weights_sha256
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.fit_config import HashFitConfig
from umbel.evaluation.hashing.fit_shared import basics, fitting_splits, store, there, told_folder, tower_of
from umbel.evaluation.hashing.fitting import Fitting
from umbel.evaluation.hashing.lora import check_adaptable, import_peft
from umbel.evaluation.hashing.photograph_views import PhotographViewsConfig
from umbel.evaluation.hashing.stored import backbone_name
from umbel.evaluation.reading import chosen_reading, read_again
from umbel.machine import choose_device
from umbel.run import UserError, say


def fit_on_photographs(config: HashFitConfig, embeddings: Embeddings | None) -> None:
    """Fit on views of photographs, supervised or not, or beside their words; see `umbel.evaluation.hashing.lora`.

    Raises:
        UserError: nothing to fit on, or something else at --out.
    """
    adapts = config.lora.rank > 0
    if adapts:
        import_peft()
    backbone, shards = _backbone_and_shards(config, embeddings)
    sha256, tower = weights_sha256(backbone), tower_of(config)
    asked = basics(config) | {
        "supervised": config.supervised,
        **({"label_fields": list(config.label_fields)} if config.label_fields else {}),
        "crovca": dataclasses.asdict(config.crovca),
        "photographs": _that_matter(config.photographs),
    }
    asked |= {"backbone": sha256, "data": shards.fingerprint()}
    if embeddings is not None and (reading := chosen_reading(embeddings.provenance)) is not None:
        asked["reading"] = reading
        if adapts:
            raise UserError(
                "--lora.rank adapts a backbone as it reads by itself, and these embeddings were read so: "
                f"{reading}: give the backbone itself."
            )
    if adapts:
        asked["lora"] = dataclasses.asdict(config.lora)
    if config.pairs is not None:
        asked["pairs"] = config.pairs
    if tower is not None:
        asked["texts"] = tower.sha256
    if there(config, asked):
        return
    if adapts:
        check_adaptable(backbone.model, config.lora, name=backbone.source, side=backbone.card.image_size)
    device = choose_device(config.device)
    say(f"device {device.value}: {device.reason}.")
    started, fitting = time.monotonic(), Fitting(config, backbone, shards, tower, torch.device(device.value))
    hasher, count = fitting.heads()
    told = {
        "backbone": {"source": backbone.source, "sha256": sha256},
        "preprocessing": preprocessing(backbone),
        "reading": embeddings and embeddings.provenance.get("reading"),
        "data": {"folder": str(shards.shards[0].path.parent), "fingerprint": shards.fingerprint()},
    }
    more = fitting.writer(hasher, *fitting.train(hasher)) if adapts else None
    store(config, hasher, asked, told, count, started, more)


def _that_matter(config: PhotographViewsConfig) -> dict[str, Any]:
    """The settings that change the views; how fast they are made is left out."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in ("batch", "workers")}


def _backbone_and_shards(config: HashFitConfig, embeddings: Embeddings | None) -> tuple[Backbone, ShardSet]:
    """What crovca embeds the views of: named outright, or by the embeddings' provenance."""
    name: str | None = config.source
    data = config.data
    if embeddings is not None:
        name = backbone_name(embeddings.provenance)
        if name is None:
            raise UserError(
                f"{config.source} does not tell its backbone, which crovca embeds views with: give the backbone itself."
            )
        data = data or told_folder(embeddings)
    if data is None:
        raise UserError("crovca trains on views of photographs: give their shards with --data.")
    check_shards(data)
    shards = open_shards(data)
    splits = fitting_splits(tuple(shard.split for shard in shards.shards))
    return read_again(str(name), embeddings.provenance if embeddings else {}), shards.select(splits)
