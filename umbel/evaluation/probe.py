"""`umbel probe BACKBONE --data DATA`: how far frozen features alone tell species apart, beside what needs no learning.

Nearest centroid from a few images of each class (arXiv 2604.27538) and k nearest neighbors, by the same draws for all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from umbel.data.folder import check_data
from umbel.evaluation.compare import Comparison, compare
from umbel.evaluation.embed import check_loading
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.probe_extras import Extras
from umbel.evaluation.probe_file import document, refuse_stranger
from umbel.evaluation.probe_rows import Measured, ProbeRow, divide, measure, probe, probe_features
from umbel.evaluation.probe_settings import Probe, ProbeSettings
from umbel.evaluation.probe_sources import PRETRAINED, UNTRAINED, Gathered, gather
from umbel.evaluation.probe_words import more_table, sentences, table
from umbel.evaluation.reading import ReadConfig, reading_of
from umbel.evaluation.suite import run_suite
from umbel.machine import DeviceChoice, choose_device
from umbel.run import say, write_atomic

__all__ = ["PRETRAINED", "UNTRAINED", "ProbeConfig", "ProbeRow", "probe", "probe_features", "run", "table"]


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(ReadConfig):
    """Measure frozen features: few-shot nearest centroid and k nearest neighbors, with baselines, and more if asked."""

    backbone: Annotated[str, tyro.conf.Positional]
    """A run, a timm folder, a released checkpoint, hf-hub:NAME, a timm model; or a folder of embeddings."""
    data: str | None = None
    """Labeled shards, or class folders of photographs; embeddings need it for baselines, organs and genera only."""
    against: tuple[str, ...] = ()
    """Other backbones, or embeddings of the same photographs: each is compared with BACKBONE on the same draws."""
    probes: tuple[Probe, ...] = ("centroid", "knn")
    """What is measured; centroid and knn always are. episodes and open-set take seconds, linear and logistic minutes
    (with thousands of species hours on a CPU), label-free embeds 2,000 photographs once more."""
    shots: tuple[int, ...] = (5,)
    """Support images of each class; several numbers make a column each, comparisons are by the first."""
    draws: int = 50
    """Draws of the support."""
    knn: int = 20
    """Neighbors that vote."""
    episodes: int = 600
    """Episodes of the probe `episodes`."""
    ways: int = 20
    """Species of an episode."""
    seed: int = 0
    """Seed of the draws and of the untrained backbone."""
    baselines: bool = True
    """Measure color histogram, raw pixels and the untrained backbone as well."""
    suite: str | None = None
    """Measure on the sets of a suite, by its protocol, beside published figures: meta-album-plants."""
    suite_data: Path | None = None
    """Folder with the suite's shards: SUITE_DATA/PLT_NET and so on."""
    sensitivity: bool = False
    """Measure how far each augmentation moves embeddings; the picture goes beside --out."""
    sensitivity_photographs: int = 200
    """Photographs that are changed for it, balanced over species."""
    efficiency: bool = False
    """Measure parameters, multiply-adds, latency, throughput, memory and energy of the backbone."""
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
        super().__post_init__()
        check_loading(self.batch, self.workers)
        for name, low in (("knn", 1), ("sensitivity_photographs", 4)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if len({self.backbone, *self.against, PRETRAINED}) < len(self.against) + 2:
            raise ValueError(f"against must name other backbones, each once, not {' '.join(self.against)}")
        if (self.suite is None) != (self.suite_data is None):
            raise ValueError("suite and suite_data go together: give both or neither")
        if self.suite is not None and (self.sensitivity or self.efficiency):
            raise ValueError("suite measures accuracy alone: leave out sensitivity and efficiency")
        if self.suite is not None and (self.data is not None or self.against):
            raise ValueError("suite has its own data and compares with published figures: leave out data and against")
        _ = self.settings  # checks the numbers

    def check_data(self) -> None:
        """Refuse data that are not there; raises UserError."""
        if self.data is not None:
            check_data(self.data)

    @property
    def reading(self) -> ReadConfig:
        """How photographs are read."""
        return reading_of(self)

    @property
    def settings(self) -> ProbeSettings:
        """What is measured on features."""
        return ProbeSettings(
            shots=self.shots,
            draws=self.draws,
            k=self.knn,
            seed=self.seed,
            probes=self.probes,
            episodes=self.episodes,
            ways=self.ways,
        )


def run(config: ProbeConfig) -> None:
    """Embed where needed, measure and print.

    Raises:
        UserError: no such backbone or data, no labels, classes too small, or --out is another file.
    """
    if config.out is not None:
        refuse_stranger(config.out)
    # JSON has standard output for itself.
    with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
        device = choose_device(config.device)
        say(f"device {device.value}: {device.reason}.")
        extras = _extras(config)
        extras.check()
        text, told = _suite(config, device.value) if config.suite else _probe(config, extras, device.value)
        if config.out is not None:
            config.out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(config.out, text)
            extras.draw_costs()
    say(text.rstrip("\n") if config.json else told)


def _suite(config: ProbeConfig, device: str) -> tuple[str, str]:
    """The file's text and what is printed."""
    assert config.suite is not None
    assert config.suite_data is not None
    result = run_suite(
        config.suite, config.suite_data, config.backbone, device=device, batch=config.batch, workers=config.workers,
        seed=config.seed,
    )  # fmt: skip
    text = json.dumps({"format": 1, "command": "probe"} | dataclasses.asdict(result), indent=1, ensure_ascii=False)
    return text + "\n", str(result)


def _probe(config: ProbeConfig, extras: Extras, device: str) -> tuple[str, str]:
    """The file's text and what is printed."""
    with tempfile.TemporaryDirectory(prefix="umbel-probe-") as folder:
        gathered = gather(config, Path(folder), device)
        more = extras.measure(Path(folder), device)
    measured = measure(gathered.features, config.settings, device=device, metadata=gathered.metadata)
    _add_alignment(measured, gathered)
    comparisons = compare_all(measured, seed=config.seed)
    first = next(iter(gathered.features.values()))
    asked = "train and val are the support, test the queries"
    support, queries = divide(first)
    if queries is None:
        asked = "without a test split the support is drawn from all, and the rest are the queries"
    counts = {"support": len(support), "queries": len(support if queries is None else queries)}
    absent = list(dict.fromkeys([*gathered.absent, *(words for one in measured for words in one.absent)]))
    protocol: dict[str, Any] = {"shots": config.shots[0], "draws": config.draws, "seed": config.seed, "k": config.knn}
    protocol |= {"queries": asked, "all_shots": config.shots, "probes": config.probes}
    text = document(
        [one.record() for one in measured],
        protocol=protocol,
        photographs=counts,
        classes=first.classes,
        comparisons=comparisons,
        absent=absent,
        provenance=first.provenance,
        more=more,
    )
    told = [f"{counts['support']} support photographs, {counts['queries']} queries: {asked}.", table(measured)]
    told += ["", more_table(measured), "", *sentences(measured[0], first.classes)]
    told += [comparison.verdict for comparison in comparisons]
    told += absent
    told += _left_out(measured[0].row, first)
    return text, "\n".join(told)


def _extras(config: ProbeConfig) -> Extras:
    return Extras(
        backbone=config.backbone,
        data=config.data,
        out=config.out,
        sensitivity=config.sensitivity_photographs if config.sensitivity else 0,
        efficiency=config.efficiency,
        seed=config.seed,
        workers=config.workers,
    )


def compare_all(measured: Sequence[Measured], *, seed: int) -> list[Comparison]:
    """The first features against each of the others, few-shot and k-NN, paired by query and draw."""
    first, found = measured[0], []
    for other in measured[1:]:
        ours, theirs = first.outcomes, other.outcomes
        names = first.row.name, other.row.name
        few = f"{first.row.shots}-shot accuracy"
        found.append(compare(*names, few, ours.hits, theirs.hits, ours.counted, seed=seed))
        hits = first.knn_hits[None], other.knn_hits[None]
        found.append(compare(*names, f"{first.row.k}-NN accuracy", *hits, np.ones_like(hits[0], dtype=bool), seed=seed))
    return found


def _add_alignment(measured: Sequence[Measured], gathered: Gathered) -> None:
    for one in measured:
        if one.row.name in gathered.alignment and "label_free" in one.details:
            one.details["label_free"]["alignment"] = gathered.alignment[one.row.name]


def _left_out(row: ProbeRow, features: Embeddings) -> list[str]:
    if not row.left_out:
        return []
    classes: Any = features.classes
    names = [classes[label] if label < len(classes) else str(label) for label in row.left_out]
    return [f"too small for {row.shots} shots, left out: {', '.join(names)}"]
