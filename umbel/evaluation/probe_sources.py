"""The features that `umbel probe` compares: of backbones, or stored, beside what needs no learning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import ImageOps
from PIL.Image import Image
from torch import Tensor

from umbel.backbones import Backbone
from umbel.data.index import ShardSet
from umbel.evaluation.baselines import baseline_embeddings, untrained
from umbel.evaluation.embed import embed
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.estimates import Estimate
from umbel.evaluation.extract import Prepare, open_data
from umbel.evaluation.label_free import alignment
from umbel.evaluation.probe_rows import QUERIES, SUPPORT, measure
from umbel.evaluation.probe_settings import Probe, ProbeSettings
from umbel.evaluation.reading import ReadConfig, load_to_read, read_again
from umbel.evaluation.sample_metadata import NOTHING, SampleMetadata, locate, read_metadata
from umbel.evaluation.stored_checks import check_photographs, check_reading
from umbel.machine import choose_workers
from umbel.run import UserError, say

PRETRAINED, UNTRAINED = "pretrained backbone", "untrained backbone"
SPLITS = (*SUPPORT, *QUERIES)
MIRRORED = 2000
"""Photographs, at most, that are embedded once more for the alignment."""


class Wanted(Protocol):
    """What of the command's configuration decides about features."""

    @property
    def backbone(self) -> str: ...
    @property
    def against(self) -> tuple[str, ...]: ...
    @property
    def data(self) -> str | None: ...
    @property
    def probes(self) -> tuple[Probe, ...]: ...
    @property
    def baselines(self) -> bool: ...
    @property
    def seed(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def workers(self) -> int: ...
    @property
    def settings(self) -> ProbeSettings: ...
    @property
    def reading(self) -> ReadConfig: ...


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Features by name, the first backbone's first, and what else is known of the photographs."""

    features: dict[str, Embeddings]
    metadata: SampleMetadata = NOTHING
    alignment: dict[str, Estimate] = dataclasses.field(default_factory=dict)
    """By the name of the features."""
    absent: tuple[str, ...] = ()


def gather(wanted: Wanted, folder: Path, device: str) -> Gathered:
    """The features to compare; photographs are made into shards in `folder`.

    Raises:
        UserError: no such backbone or data, no labels, classes too small.
    """
    sources = {PRETRAINED: wanted.backbone} | {name: name for name in wanted.against}
    stored = {name: _stored(source) for name, source in sources.items()}
    lacking = [sources[name] for name, there in stored.items() if there is None]
    if lacking and wanted.data is None:
        raise UserError(f"{lacking[0]} is no folder of embeddings: give the photographs as --data.")
    ready = {name: there for name, there in stored.items() if there is not None}
    given = {sources[name]: there for name, there in ready.items()}
    check_reading(given, wanted.reading, beside=bool(lacking))
    check_photographs(given, wanted.data)
    if wanted.data is None:
        if wanted.baselines:
            say("without --data there are no baselines.")
        absent = ["without --data nothing is told by organ or by genus and family: embeddings hold labels alone."]
        if "label-free" in wanted.probes:
            absent.append("without --data there is no alignment: it needs a second view of the photographs.")
        return Gathered(features=ready, absent=tuple(absent))
    backbones = {name: load_to_read(source, wanted.reading) for name, source in sources.items() if name not in ready}
    maker = _maker(ready[PRETRAINED]) if wanted.baselines and PRETRAINED in ready else backbones.get(PRETRAINED)
    size = max([backbone.card.image_size for backbone in (*backbones.values(), maker) if backbone], default=0)
    shards = open_data(wanted.data, folder / "shards", size, workers=wanted.workers).select(SPLITS)
    _rehearse(shards, wanted.settings)
    workers = int(choose_workers(wanted.workers, 1).value)
    features = {}
    for name in sources:
        if name in ready:
            features[name] = ready[name]
        else:
            features[name] = embed(backbones[name], shards, device=device, batch=wanted.batch, workers=workers)
    if wanted.baselines:
        features |= baseline_embeddings(shards, batch=wanted.batch, workers=workers)
        if maker is not None:
            fresh = untrained(maker, seed=wanted.seed)
            features[UNTRAINED] = embed(fresh, shards, device=device, batch=wanted.batch, workers=workers)
    first = next(iter(features.values()))
    samples = locate(shards, first.keys)
    if samples is None:
        told = f"{wanted.data} is not what was embedded: nothing is told by organ or by genus and family."
        return Gathered(features=features, absent=(told,))
    metadata = read_metadata(shards, samples, first.label)
    aligned: dict[str, Estimate] = {}
    if "label-free" in wanted.probes:
        chosen = np.sort(np.random.default_rng(wanted.seed).permutation(len(samples))[:MIRRORED])
        some = dataclasses.replace(shards, members=shards.members[samples[chosen]], keys=shards.keys[samples[chosen]])
        for name, backbone in backbones.items():
            mirrored = dataclasses.replace(backbone, transform=_Mirrored(backbone.transform))
            other = embed(mirrored, some, device=device, batch=wanted.batch, workers=workers)
            aligned[name] = alignment(features[name].features[chosen], other.features)
    return Gathered(features=features, metadata=metadata, alignment=aligned, absent=_lacking(metadata, wanted))


def _lacking(metadata: SampleMetadata, wanted: Wanted) -> tuple[str, ...]:
    """What the photographs' metadata do not tell."""
    absent = []
    if metadata.taxonomy is None:
        absent.append("the photographs' metadata tell no genus or family: errors are told by species alone.")
    if metadata.organs is None:
        absent.append("the photographs' metadata tell no organ: nothing is told by organ.")
    return tuple(absent)


class _Mirrored:
    """A transform of the mirrored photograph."""

    def __init__(self, transform: Prepare) -> None:
        self.transform = transform

    def __call__(self, image: Image) -> Tensor:
        return self.transform(ImageOps.mirror(image))


def _stored(name: str) -> Embeddings | None:
    """The embeddings of the splits that are probed, where the name is a folder of them."""
    if not (Path(name) / "embeddings.json").is_file():
        return None
    return Embeddings.load(Path(name)).of(*SPLITS)


def _maker(stored: Embeddings) -> Backbone | None:
    """The backbone that made stored embeddings, if it is still there."""
    made_by = stored.provenance.get("given", {}).get("backbone", "")
    try:
        return read_again(made_by, stored.provenance)
    except UserError as error:
        say(f"without the {UNTRAINED}, whose architecture is not to be had: {error}")
        return None


def _rehearse(shards: ShardSet, settings: ProbeSettings) -> None:
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
    measure({"labels": blank}, dataclasses.replace(settings, draws=2, k=1, episodes=2, probes=("centroid", "knn")))
