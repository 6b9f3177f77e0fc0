"""The steps from photographs to a report: what each one is asked for, and where it puts what it makes.

Everything lies where `umbel report` looks for it: in the folder of the run. `umbel demo` and `umbel pipeline` share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel.evaluation.embed import EmbedConfig
from umbel.evaluation.exporting.command import ExportConfig
from umbel.evaluation.hashing.encode_command import HashEncodeConfig
from umbel.evaluation.hashing.evaluate_command import HashEvaluateConfig
from umbel.evaluation.hashing.fit_command import HashFitConfig
from umbel.evaluation.probe import ProbeConfig
from umbel.evaluation.report import ReportConfig
from umbel.machine import DeviceChoice

LABELED_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the results of a run lie."""

    run: Path
    """The run folder."""

    @property
    def embeddings(self) -> Path:
        return self.run / "embeddings"

    @property
    def probe(self) -> Path:
        return self.run / "probe.json"

    @property
    def coder(self) -> Path:
        return self.run / "coder"

    @property
    def codes(self) -> Path:
        return self.run / "codes"

    @property
    def hash(self) -> Path:
        return self.run / "hash.json"

    @property
    def export(self) -> Path:
        return self.run / "export" / "timm"

    @property
    def report(self) -> Path:
        return self.run / "report.html"


def first_settings(places: Places, data: str, *, seed: int, device: DeviceChoice) -> dict[str, Any]:
    """The configuration of each step behind pretraining, by its name, before anything is asked for.

    Args:
        data: shards.
    """
    run = str(places.run)
    return {
        "embed": EmbedConfig(backbone=run, data=data, out=places.embeddings, splits=LABELED_SPLITS, device=device),
        "probe": ProbeConfig(backbone=str(places.embeddings), data=data, seed=seed, out=places.probe, device=device),
        "hash_fit": HashFitConfig(source=run, data=data, out=places.coder, seed=seed, device=device),
        "hash_encode": HashEncodeConfig(coder=places.coder, embeddings=places.embeddings, out=places.codes),
        "hash_evaluate": HashEvaluateConfig(inputs=(places.codes, places.embeddings), seed=seed, out=places.hash),
        "export": ExportConfig(backbone=places.run),
        "report": ReportConfig(paths=(run,), data=data),
    }
