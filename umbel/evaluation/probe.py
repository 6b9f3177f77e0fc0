"""`umbel probe BACKBONE --data DATA`: how far frozen features alone tell species apart, beside what needs no learning.

Nearest centroid from a few images of each class (arXiv 2604.27538) and k nearest neighbors, by the same draws for all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from umbel.backbones import Backbone, load
from umbel.data.index import ShardSet
from umbel.evaluation.baselines import baseline_embeddings, untrained
from umbel.evaluation.embed import check_loading, embed
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.extract import open_data
from umbel.evaluation.probe_rows import QUERIES, SUPPORT, ProbeRow, divide, probe, probe_features, table
from umbel.machine import DeviceChoice, choose_device, choose_workers
from umbel.run import UserError, say, write_atomic

__all__ = ["ProbeConfig", "ProbeRow", "probe", "probe_features", "run", "table"]
PRETRAINED, UNTRAINED = "pretrained backbone", "untrained backbone"
SPLITS = (*SUPPORT, *QUERIES)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Measure frozen features: few-shot nearest centroid and k nearest neighbors, with baselines."""

    backbone: Annotated[str, tyro.conf.Positional]
    """A run, a timm folder, a released checkpoint, hf-hub:NAME, a timm model; or a folder of embeddings."""
    data: str | None = None
    """Labeled shards, or class folders of photographs; embeddings need it for the baselines only."""
    shots: int = 5
    """Support images of each class."""
    draws: int = 50
    """Draws of the support."""
    knn: int = 20
    """Neighbors that vote."""
    seed: int = 0
    """Seed of the draws and of the untrained backbone."""
    baselines: bool = True
    """Measure color histogram, raw pixels and the untrained backbone as well."""
    json: bool = False
    """Print JSON instead of the table."""
    out: Path | None = None
    """File for the JSON; an older result is replaced."""
    batch: int = 256
    """Photographs in a batch."""
    device: DeviceChoice = "auto"
    """Where the backbone runs."""
    workers: int = -1
    """Processes that decode and resize; -1: chosen by the processors at hand, 0: this process itself."""

    def __post_init__(self) -> None:
        check_loading(self.batch, self.workers)
        # An interval needs two draws.
        for name, low in (("shots", 1), ("draws", 2), ("knn", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")


def run(config: ProbeConfig) -> None:
    """Embed where needed, measure and print.

    Raises:
        UserError: no such backbone or data, no labels, classes too small, or --out is another file.
    """
    if config.out is not None:
        _refuse_stranger(config.out)
    # JSON has standard output for itself.
    with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
        device = choose_device(config.device)
        say(f"device {device.value}: {device.reason}.")
        with tempfile.TemporaryDirectory(prefix="umbel-probe-") as folder:
            features = gather(config, Path(folder), device.value)
        measured = {"shots": config.shots, "draws": config.draws, "seed": config.seed, "k": config.knn}
        rows = probe(features, **measured, device=device.value)
    first = next(iter(features.values()))
    support, queries = divide(first)
    asked = "train and val are the support, test the queries"
    if queries is None:
        asked = "without a test split the support is drawn from all, and the rest are the queries"
    counts = {"support": len(support), "queries": len(support if queries is None else queries)}
    text = json.dumps(
        {"format": 1, "command": "probe", "protocol": measured | {"queries": asked}, "photographs": counts}
        | {"rows": [dataclasses.asdict(row) for row in rows], "classes": list(first.classes)}
        | {"provenance": first.provenance},
        indent=1,
        ensure_ascii=False,
    )
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(config.out, text + "\n")
    if config.json:
        print(text)
        return
    say(f"{counts['support']} support photographs, {counts['queries']} queries: {asked}.")
    say(table(rows))
    if rows[0].left_out:
        names = [first.classes[label] if label < len(first.classes) else str(label) for label in rows[0].left_out]
        say(f"too small for {config.shots} shots, left out: {', '.join(names)}")


def gather(config: ProbeConfig, folder: Path, device: str) -> dict[str, Embeddings]:
    """The features to compare, the backbone's first; photographs are made into shards in `folder`.

    Raises:
        UserError: see `run`.
    """
    stored = _stored(config.backbone)
    if stored is None and config.data is None:
        raise UserError(f"{config.backbone} is no folder of embeddings: give the photographs as --data.")
    if stored is not None and not (config.data and config.baselines):
        if config.baselines:
            say("without --data there are no baselines.")
        return {PRETRAINED: stored}
    backbone = _backbone(config.backbone, stored)
    image_size = backbone.card.image_size if backbone else 0
    shards = open_data(str(config.data), folder / "shards", image_size, workers=config.workers).select(SPLITS)
    _rehearse(shards, config)
    workers = int(choose_workers(config.workers, 1).value)
    features = {}
    if stored is not None:
        features[PRETRAINED] = stored
    elif backbone is not None:
        features[PRETRAINED] = embed(backbone, shards, device=device, batch=config.batch, workers=workers)
    if config.baselines:
        features |= baseline_embeddings(shards, batch=config.batch, workers=workers)
        if backbone is not None:
            fresh = untrained(backbone, seed=config.seed)
            features[UNTRAINED] = embed(fresh, shards, device=device, batch=config.batch, workers=workers)
    return features


def _stored(name: str) -> Embeddings | None:
    """The embeddings of the splits that are probed, where the name is a folder of them."""
    if not (Path(name) / "embeddings.json").is_file():
        return None
    return Embeddings.load(Path(name)).of(*SPLITS)


def _backbone(name: str, stored: Embeddings | None) -> Backbone | None:
    """The backbone itself; behind stored embeddings the one that made them, if it is still there."""
    if stored is None:
        return load(name)
    made_by = stored.provenance.get("given", {}).get("backbone", "")
    try:
        return load(made_by)
    except UserError as error:
        say(f"without the {UNTRAINED}, whose architecture is not to be had: {error}")
        return None


def _rehearse(shards: ShardSet, config: ProbeConfig) -> None:
    """Probe blank features, so that labels that do not suffice are told before the photographs are embedded."""
    names = [shard.split for shard in shards.shards]
    blank = Embeddings(
        features=np.zeros((len(shards), 1), dtype=np.float32),
        label=shards.members["label"].astype(np.int64),
        split=np.array([SPLITS.index(name) for name in names], dtype=np.int64)[shards.members["shard"]],
        keys=tuple(map(shards.key, range(len(shards)))),
        splits=SPLITS,
        classes=shards.classes,
    )
    probe({"labels": blank}, shots=config.shots, draws=2, seed=config.seed, k=1)


def _refuse_stranger(out: Path) -> None:
    """Only a result of this command may be replaced."""
    if not out.exists():
        return
    try:
        told = json.loads(out.read_text())
    except (OSError, ValueError):
        told = None
    if not isinstance(told, dict) or told.get("command") != "probe":
        raise UserError(f"{out} is no result of `umbel probe`: choose another --out.")
