"""What a report reads: the files of a run folder, checked, and what is missing as None."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from umbel.config import read_recipe
from umbel.data.index import PRETRAINING_SPLITS, ShardSet, find_shards, open_shards
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing import Codes
from umbel.evaluation.probe_rows import ProbeRow
from umbel.evaluation.report_suite import check_suite, is_suite
from umbel.run import UserError, read_json
from umbel.run_folder import RunFolder

PROBED = {"step", "shots", "accuracy", "interval", "photographs"}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run folder, read."""

    path: Path
    config: dict[str, Any]
    """The resolved recipe."""
    record: dict[str, Any]
    """run.json: lasting facts and starts."""
    metrics: list[dict[str, Any]]
    """Lines of metrics.jsonl; at least one."""
    bad_photographs: int
    """Photographs that could not be decoded."""
    probes: list[dict[str, Any]]
    """Lines of probes.jsonl: few-shot accuracy by step; empty where it was not measured."""
    probe: list[ProbeRow] | None
    probed: dict[str, Any]
    """The whole of probe.json; empty without."""
    classes: tuple[str, ...]
    """Names of the classes that were probed."""
    hashing: dict[str, Any] | None
    """hash.json, as `umbel hash evaluate --out` writes it."""
    steps: list[dict[str, Any]] | None
    """steps.json: name, seconds and peak_memory_gib of each step."""
    embeddings: Embeddings | None
    codes: Codes | None


def read_run(path: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        UserError: no run, one without metrics yet, or a file that is not what it should be.
    """
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; give the run folder of `umbel pretrain`.")
    if not (path / "config.yaml").is_file() or not (path / "run.json").is_file():
        raise UserError(f"{path} is not a run (config.yaml and run.json): give the run folder of `umbel pretrain`.")
    folder = RunFolder(path)
    names = {field.name for field in fields(ProbeRow)}
    probed = _read_probe(path / "probe.json", names)
    metrics = folder.read_log("metrics")
    if not metrics:
        raise UserError(f"run {path} has no metrics yet: let it train on.")
    return RunRecord(
        path=path,
        config=read_recipe(str(path / "config.yaml"), "pretrain"),
        record=read_json(path / "run.json", "the run's record"),
        metrics=metrics,
        bad_photographs=len({row["key"] for row in folder.read_log("bad_photographs")}),
        probes=[row for row in folder.read_log("probes") if row.keys() >= PROBED],
        probe=[ProbeRow(**{name: row[name] for name in names}) for row in probed["rows"]] if "rows" in probed else None,
        probed=probed,
        classes=tuple(map(str, probed.get("classes", ()))),
        hashing=_read_rows(path / "hash.json", "the hashing table", "scores", {"name", "bits", "distance", "map"}),
        steps=(_read_rows(path / "steps.json", "the steps' record", "steps", {"name", "seconds"}) or {}).get("steps"),
        embeddings=Embeddings.load(path / "embeddings") if (path / "embeddings" / "embeddings.json").exists() else None,
        codes=Codes.load(path / "codes") if (path / "codes" / "codes.json").exists() else None,
    )


def _read_probe(file: Path, names: set[str]) -> dict[str, Any]:
    """probe.json, of rows or of a suite."""
    if file.exists() and is_suite(told := read_json(file, "the probe's result")):
        check_suite(told, file)
        return told
    return _read_rows(file, "the probe's result", "rows", names) or {}


def _read_rows(path: Path, what: str, key: str, needed: set[str]) -> dict[str, Any] | None:
    """A file of ours with a list of rows that have some keys; None where it is missing."""
    if not path.exists():
        return None
    told = read_json(path, what)
    rows = told.get(key)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and needed <= set(row) for row in rows):
        raise UserError(f"{what} {path} must have a list '{key}' with {', '.join(sorted(needed))} in every row.")
    return told


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Shards that pictures are taken from."""

    shards: ShardSet
    where: str
    trained_on: bool
    """Whether the run was trained on these very photographs."""


def find_pictures(run: RunRecord, data: str | None) -> Photographs | None:
    """The shards to take pictures from: DATA, the run's data, or those that the run made of a folder of photographs.

    Raises:
        UserError: DATA is given and not there.
    """
    if data is not None and not find_shards(data) and not Path(data).is_dir():
        raise UserError(f"--data {data}: there is no such folder.")
    places = [data] if data is not None else [str(run.config["data"])]
    for place in (*places, str(run.path / "shards"), str(run.path / "embeddings" / "shards")):
        # Data may have been moved or changed since the run; the report is then one without pictures.
        with contextlib.suppress(UserError, OSError):
            if find_shards(place):
                shards = open_shards(place)
                return Photographs(shards=shards, where=place, trained_on=_trained_on(run, shards))
    return None


def _trained_on(run: RunRecord, shards: ShardSet) -> bool:
    splits = [shard.split for shard in shards.shards if shard.split in PRETRAINING_SPLITS]
    return bool(splits) and shards.select(splits).fingerprint() == run.record.get("lasting", {}).get("data")


def data_name(run: RunRecord, pictures: Photographs | None) -> str:
    """What the run was trained on, in a word or two."""
    data = Path(str(run.config["data"]))
    source = Path(pictures.where) / "source.json" if pictures is not None and pictures.trained_on else None
    if source is not None and source.is_file() and read_json(source, "the shards' source").get("source") == "synthetic":
        return "synthetic plants"
    # A folder called shards tells nothing.
    return data.parent.name or data.name if data.name == "shards" else data.name
