"""`umbel hash fit EMBEDDINGS|BACKBONE --out DIR`: fit a hashing method and store it as a folder."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import torch

from umbel.data.index import find_shards, open_shards
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.fit_config import HashFitConfig as HashFitConfig
from umbel.evaluation.hashing.fit_photographs import fit_on_photographs
from umbel.evaluation.hashing.fit_shared import (
    FROM_EMBEDDINGS,
    basics,
    fitting_splits,
    store,
    there,
    told_folder,
    tower_of,
)
from umbel.evaluation.hashing.pair_sources import CAPTIONS, NAMES, pair_with
from umbel.evaluation.hashing.pairs import fit_pairs
from umbel.evaluation.hashing.stored import BASELINES, file_sha256
from umbel.evaluation.hashing.stored_tower import StoredTower
from umbel.evaluation.hashing.text_features import text_features
from umbel.evaluation.stored_checks import check_photographs
from umbel.machine import choose_device
from umbel.run import UserError, say


def run(config: HashFitConfig) -> None:
    """Fit and store; queries (test) are never fitted on.

    Raises:
        UserError: nothing to fit on, or something else at --out.
    """
    embeddings = Embeddings.load(Path(config.source)) if (Path(config.source) / "embeddings.json").is_file() else None
    if config.on_photographs:
        fit_on_photographs(config, embeddings)
    elif embeddings is None:
        what = config.method if config.pairs is None else "--pairs"
        raise UserError(
            f"{config.source} holds no embeddings, which {what} is fitted on: make them with `umbel embed`."
        )
    elif config.pairs is None:
        _fit_on_embeddings(config, embeddings)
    else:
        _fit_on_pairs(config, embeddings, config.pairs)


def _fit_on_embeddings(config: HashFitConfig, embeddings: Embeddings) -> None:
    asked = basics(config) | {"embeddings": file_sha256(Path(config.source) / "embeddings.safetensors")}
    if there(config, asked):
        return
    used = embeddings.of(*fitting_splits(embeddings.splits))
    started = time.monotonic()
    hasher = BASELINES[config.method](config.bits, seed=config.seed).fit(used.features)
    told = {name: embeddings.provenance.get(name) for name in FROM_EMBEDDINGS}
    store(config, hasher, asked, told, len(used), started)


def _fit_on_pairs(config: HashFitConfig, embeddings: Embeddings, what: str) -> None:
    known = what in (NAMES, CAPTIONS)
    data = config.data or told_folder(embeddings)
    shards = None
    if known and data is not None and (find_shards(data) or config.data is not None):
        check_photographs({config.source: embeddings}, data)
        shards = open_shards(data)
    asked = basics(config) | {
        "crovca": dataclasses.asdict(config.crovca),
        "embeddings": file_sha256(Path(config.source) / "embeddings.safetensors"),
        "pairs": what if known else file_sha256(Path(what) / "embeddings.safetensors"),
        "data": shards and shards.fingerprint(),
    }
    tower = tower_of(config)
    if tower is not None:
        asked["texts"] = tower.sha256
    if there(config, asked):
        return
    device = choose_device(config.device)
    say(f"device {device.value}: {device.reason}.")
    started = time.monotonic()
    used = embeddings.of(*fitting_splits(embeddings.splits))
    if tower is not None:
        tower.network.to(device.value)
    read = text_features if tower is None else tower.features
    pairs = pair_with(what, used, shards, read, sounds=(embeddings.provenance.get("data") or {}).get("sounds"))
    say(f"{len(pairs.rows):,} photographs with {pairs.others.shape[0] * pairs.others.shape[1]:,} descriptions.")
    views = torch.from_numpy(used.features[pairs.rows])[None]
    hasher = fit_pairs(
        views.to(device.value),
        pairs.others.to(device.value),
        pairs.of,
        bits=config.bits,
        reads=pairs.reads,
        tower=None if tower is None else StoredTower.of(tower),
        seed=config.seed,
        config=config.crovca,
    )
    told = {name: embeddings.provenance.get(name) for name in FROM_EMBEDDINGS}
    store(config, hasher, asked, told, len(pairs.rows), started)
