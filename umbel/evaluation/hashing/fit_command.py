"""`umbel hash fit EMBEDDINGS|BACKBONE --out DIR`: fit a hashing method and store it as a folder."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from umbel.backbones import Backbone
from umbel.data.folder import check_shards
from umbel.data.index import ShardSet, find_shards, open_shards
from umbel.evaluation.embed import preprocessing, weights_sha256
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.evaluate import QUERY_SPLITS
from umbel.evaluation.hashing.fit import fit_crovca
from umbel.evaluation.hashing.label_fields import labels_with_fields
from umbel.evaluation.hashing.pair_sources import CAPTIONS, NAMES, pair_with
from umbel.evaluation.hashing.pairs import fit_pairs
from umbel.evaluation.hashing.photograph_views import PhotographViewsConfig, view_embeddings
from umbel.evaluation.hashing.stored import (
    BASELINES,
    already_made,
    backbone_name,
    file_sha256,
    save_hasher,
    versions,
)
from umbel.evaluation.hashing.train_coders import CrovcaConfig
from umbel.evaluation.reading import chosen_reading, read_again
from umbel.evaluation.stored_checks import check_photographs
from umbel.machine import DeviceChoice, choose_device
from umbel.run import UserError, say

FROM_EMBEDDINGS = ("backbone", "preprocessing", "reading", "data")
"""What a coder tells of the embeddings that it was fitted on, or whose photographs it saw."""
Method = Literal["crovca", "itq", "pca", "pca-rotation", "lsh"]


@dataclass(frozen=True, kw_only=True)
class HashFitConfig:
    """Fit a hashing method: CroVCA on views of photographs, the others on embeddings."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder of `umbel embed`, or (crovca) a backbone: a run, a folder, hf-hub:NAME, a name of timm's."""
    out: Path
    """Folder for the coder."""
    data: str | None = None
    """Shards whose photographs crovca trains on; by default those that the embeddings were made of."""
    bits: int = 32
    """K, bits of a code."""
    method: Method = "crovca"
    """crovca (learned), itq, pca (signs of principal components), pca-rotation or lsh (random hyperplanes)."""
    supervised: bool = False
    """crovca: photographs of a species predict one code, by the shards' labels; those without one their own."""
    label_fields: tuple[str, ...] = ()
    """supervised: fields of the photographs' JSON that are labels as well, such as genus family; a list is several."""
    pairs: str | None = None
    """crovca on embeddings: what describes each photograph beside them: names (texts made of its species' name and
    classification), captions (its <key>.txt), or a folder of embeddings of another modality with the same keys."""
    seed: int = 0
    """Seed of weights, order, views and rotations."""
    device: DeviceChoice = "auto"
    """Where crovca runs: auto, cpu or cuda."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""
    crovca: CrovcaConfig = field(default_factory=CrovcaConfig)
    photographs: PhotographViewsConfig = field(default_factory=PhotographViewsConfig)

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise ValueError(f"bits must be at least 1, not {self.bits}")
        if self.supervised and self.method != "crovca":
            raise ValueError(f"supervised is of the method crovca, not of {self.method}")
        if self.label_fields and not self.supervised:
            raise ValueError(f"label_fields ({', '.join(self.label_fields)}) are for supervised")
        if self.pairs is not None and (self.supervised or self.method != "crovca"):
            raise ValueError("pairs are of the method crovca without supervised")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")

    def check_data(self) -> None:
        """Refuse data that are not there; raises UserError."""
        if self.method == "crovca" and self.pairs is None and self.data is not None:
            check_shards(self.data)


def run(config: HashFitConfig) -> None:
    """Fit and store; queries (test) are never fitted on.

    Raises:
        UserError: nothing to fit on, or something else at --out.
    """
    embeddings = Embeddings.load(Path(config.source)) if (Path(config.source) / "embeddings.json").is_file() else None
    if config.method == "crovca" and config.pairs is None:
        _fit_on_photographs(config, embeddings)
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
    asked = _asked(config) | {"embeddings": file_sha256(Path(config.source) / "embeddings.safetensors")}
    if _there(config, asked):
        return
    used = embeddings.of(*_fitting_splits(embeddings.splits))
    started = time.monotonic()
    hasher = BASELINES[config.method](config.bits, seed=config.seed).fit(used.features)
    told = {name: embeddings.provenance.get(name) for name in FROM_EMBEDDINGS}
    _store(config, hasher, asked, told, len(used), started)


def _fit_on_pairs(config: HashFitConfig, embeddings: Embeddings, what: str) -> None:
    known = what in (NAMES, CAPTIONS)
    data = config.data or _told_folder(embeddings)
    shards = None
    if known and data is not None and (find_shards(data) or config.data is not None):
        check_photographs({config.source: embeddings}, data)
        shards = open_shards(data)
    asked = _asked(config) | {
        "crovca": dataclasses.asdict(config.crovca),
        "embeddings": file_sha256(Path(config.source) / "embeddings.safetensors"),
        "pairs": what if known else file_sha256(Path(what) / "embeddings.safetensors"),
        "data": shards and shards.fingerprint(),
    }
    if _there(config, asked):
        return
    device = choose_device(config.device)
    say(f"device {device.value}: {device.reason}.")
    started = time.monotonic()
    used = embeddings.of(*_fitting_splits(embeddings.splits))
    pairs = pair_with(what, used, shards)
    say(f"{len(pairs.rows):,} photographs with {pairs.others.shape[0] * pairs.others.shape[1]:,} descriptions.")
    views = torch.from_numpy(used.features[pairs.rows])[None]
    hasher = fit_pairs(
        views.to(device.value),
        pairs.others.to(device.value),
        pairs.of,
        bits=config.bits,
        reads=pairs.reads,
        seed=config.seed,
        config=config.crovca,
    )
    told = {name: embeddings.provenance.get(name) for name in FROM_EMBEDDINGS}
    _store(config, hasher, asked, told, len(pairs.rows), started)


def _fit_on_photographs(config: HashFitConfig, embeddings: Embeddings | None) -> None:
    backbone, shards = _backbone_and_shards(config, embeddings)
    sha256 = weights_sha256(backbone)
    asked = _asked(config) | {
        "supervised": config.supervised,
        **({"label_fields": list(config.label_fields)} if config.label_fields else {}),
        "crovca": dataclasses.asdict(config.crovca),
        "photographs": _that_matter(config.photographs),
    }
    asked |= {"backbone": sha256, "data": shards.fingerprint()}
    if embeddings is not None and (reading := chosen_reading(embeddings.provenance)) is not None:
        asked["reading"] = reading
    if _there(config, asked):
        return
    device = choose_device(config.device)
    say(f"device {device.value}: {device.reason}.")
    started = time.monotonic()
    views, samples = view_embeddings(backbone, shards, seed=config.seed, device=device.value, config=config.photographs)
    labels = _labels(shards, samples, config.label_fields) if config.supervised else None
    hasher = fit_crovca(views, bits=config.bits, labels=labels, seed=config.seed, config=config.crovca)
    told = {
        "backbone": {"source": backbone.source, "sha256": sha256},
        "preprocessing": preprocessing(backbone),
        "reading": embeddings and embeddings.provenance.get("reading"),
        "data": {"folder": str(shards.shards[0].path.parent), "fingerprint": shards.fingerprint()},
    }
    _store(config, hasher, asked, told, views.shape[1], started)


def _labels(shards: ShardSet, samples: np.ndarray, fields: tuple[str, ...]) -> torch.Tensor:
    """(n,) int64 classes, -1 without; (n, L) bool where fields are labels as well."""
    own: np.ndarray = shards.members["label"][samples].astype(np.int64)
    if fields:
        several = labels_with_fields(shards, samples, fields)
        say(f"{several.shape[1]:,} labels, {several.sum(1).mean():.1f} of them on a photograph.")
        return torch.from_numpy(several)
    if not (own >= 0).any():
        raise UserError(
            "none of the photographs has a label, which --supervised needs: give labeled shards with --data."
        )
    say(f"labels of {len(np.unique(own[own >= 0])):,} classes on {(own >= 0).sum():,} photographs.")
    return torch.from_numpy(own)


def _asked(config: HashFitConfig) -> dict[str, Any]:
    """What every method is asked for; with it and the inputs' hashes a folder is known again."""
    return {"method": config.method, "bits": config.bits, "seed": config.seed}


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
        data = data or _told_folder(embeddings)
    if data is None:
        raise UserError("crovca trains on views of photographs: give their shards with --data.")
    check_shards(data)
    shards = open_shards(data)
    splits = _fitting_splits(tuple(shard.split for shard in shards.shards))
    return read_again(str(name), embeddings.provenance if embeddings else {}), shards.select(splits)


def _told_folder(embeddings: Embeddings) -> str | None:
    """Where the embedded photographs' shards lay."""
    told = embeddings.provenance.get("data")
    return told.get("folder") if isinstance(told, dict) else None


def _fitting_splits(splits: tuple[str, ...]) -> list[str]:
    """All splits but the queries'.

    Raises:
        UserError: there are only queries.
    """
    chosen = [name for name in dict.fromkeys(splits) if name not in QUERY_SPLITS]
    if not chosen:
        raise UserError("there is only a test split, whose photographs are the queries: nothing may be fitted on it.")
    return chosen


def _there(config: HashFitConfig, asked: dict[str, Any]) -> bool:
    if already_made(config.out, "coder.json", asked, force=config.force):
        say(f"{config.out} already holds this coder.")
        return True
    return False


def _store(
    config: HashFitConfig, hasher: Any, asked: dict[str, Any], told: dict[str, Any], count: int, started: float
) -> None:
    seconds = round(time.monotonic() - started, 3)
    save_hasher(
        config.out,
        hasher,
        {"asked": asked, "photographs": count, "seconds": seconds, "versions": versions()} | told,
    )
    say(f"{config.out}: {hasher.method}, {config.bits} bits, fitted on {count:,} photographs in {seconds:.1f} s.")
