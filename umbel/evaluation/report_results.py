"""What a comparison reads: results of `umbel probe` on the same photographs and draws, one line for each features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.probe import PRETRAINED
from umbel.run import UserError, read_json

# What two results must share, so that a difference is one of the features and of nothing else.
ALIKE = ("draws", "seed", "k", "queries")
NEEDED = {"name", "shots", "accuracies", "mean", "interval", "knn", "knn_plain", "k"}
Ends = tuple[float, float, float]
"""A number and the ends of its 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """What one kind of features reaches."""

    name: str
    source: str = ""
    """The source that it was read from."""
    pretrained: bool
    """A backbone that was trained, not a baseline."""
    row: dict[str, Any]
    """Its row of the result whose shots come first."""
    accuracies: dict[int, list[float]]
    """Shots -> accuracy of each draw."""
    curve: dict[int, Ends]
    """Shots -> mean over draws."""
    comparisons: dict[tuple[str, int], Ends] = field(default_factory=dict)
    """Name of another row and shots -> the difference to it as the probe itself told it, queries counted too."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder, or a file, that results were read from."""

    name: str
    path: Path
    told: dict[str, Any]
    """The first result, without its rows."""
    embeddings: Embeddings | None
    features: list[Features] = field(default_factory=list)

    @property
    def fingerprint(self) -> str | None:
        """The photographs that were measured, where it was recorded."""
        return ((self.told.get("provenance") or {}).get("data") or {}).get("fingerprint")


def read_sources(given: Sequence[str]) -> list[Source]:
    """Read results, each given as PATH or NAME=PATH: a folder with probe.json, or such a file.

    Raises:
        UserError: no result, a damaged one, two of the same name, or results that were not measured alike.
    """
    sources: list[Source] = []
    for one in given:
        name, separator, path = one.rpartition("=")
        # A folder may have the sign in its name.
        if not separator or Path(one).exists():
            name, path = "", one
        sources.append(_read(Path(path), name))
    names = [source.name for source in sources]
    for source in sources:
        if names.count(source.name) > 1:
            raise UserError(f"two results are called {source.name}: name them, as in before={source.path}.")
        _check_alike(sources[0], source)
    return sources


def _read(path: Path, name: str) -> Source:
    files = sorted(path.glob("probe*.json")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"{path} holds no result (probe.json): make one with `umbel probe BACKBONE --out`.")
    # probe.json first: its protocol is the one told.
    results = [_result(file) for file in sorted(files, key=lambda file: file.name != "probe.json")]
    folder = path if path.is_dir() else path.parent
    has_embeddings = (folder / "embeddings" / "embeddings.json").exists()
    own = name or (folder.name if path.is_dir() or path.stem == "probe" else path.stem) or folder.resolve().name
    # Each result of the same source is of its own shots; the rest must be alike.
    rows: dict[str, list[dict[str, Any]]] = {}
    for told in results:
        for row in told["rows"]:
            rows.setdefault(str(row["name"]), []).append(row)
    source = Source(
        name=own,
        path=path,
        told={key: value for key, value in results[0].items() if key != "rows"},
        embeddings=Embeddings.load(folder / "embeddings") if has_embeddings else None,
        features=[features_of(own, named, of, comparisons_with(results, named)) for named, of in rows.items()],
    )
    for told in results[1:]:
        _check_alike(source, Source(name=own, path=path, told=told, embeddings=None))
    return source


def _result(file: Path) -> dict[str, Any]:
    told = read_json(file, "the probe's result")
    rows = told.get("rows")
    good = isinstance(rows, list) and rows and all(isinstance(row, dict) and set(row) >= NEEDED for row in rows)
    if not good or not isinstance(told.get("protocol"), dict):
        raise UserError(f"{file} is no result of `umbel probe`: its rows need {', '.join(sorted(NEEDED))}.")
    return told


def comparisons_with(results: list[dict[str, Any]], name: str) -> dict[tuple[str, int], Ends]:
    """The differences of few-shot accuracies that results tell of a row, from its side."""
    found = {}
    for told in results:
        shots = int(told["rows"][0]["shots"])
        for one in told.get("comparisons") or ():
            if one["measure"] == f"{shots}-shot accuracy" and name in (one["first"], one["second"]):
                value, low, high = ends(one["difference"])
                if name == one["first"]:
                    found[str(one["second"]), shots] = value, low, high
                else:
                    found[str(one["first"]), shots] = -value, -high, -low
    return found


def features_of(
    source: str, name: str, rows: list[dict[str, Any]], comparisons: dict[tuple[str, int], Ends] | None = None
) -> Features:
    """One kind of features.

    Args:
        source: what its pretrained backbone is called.
        rows: those of its name, from results with different first shots.
        comparisons: what the results tell of its differences; see `comparisons_with`.
    """
    curve: dict[int, Ends] = {}
    accuracies: dict[int, list[float]] = {}
    for row in rows:
        for point in row.get("centroid") or ():
            curve.setdefault(int(point["shots"]), ends(point["micro"]))
        mean, half = float(row["mean"]), float(row["interval"])
        curve[int(row["shots"])] = mean, mean - half, mean + half
        accuracies[int(row["shots"])] = [float(value) for value in row["accuracies"]]
    return Features(
        name=source if name == PRETRAINED else name,
        source=source,
        pretrained=name == PRETRAINED,
        row=rows[0],
        accuracies=accuracies,
        curve=dict(sorted(curve.items())),
        comparisons=comparisons or {},
    )


def ends(estimate: dict[str, Any]) -> Ends:
    """An estimate of probe.json."""
    return float(estimate["value"]), float(estimate["low"]), float(estimate["high"])


def _check_alike(first: Source, other: Source) -> None:
    """Refuse what was measured otherwise."""
    advice = "probe them alike to compare them"
    for key in ALIKE:
        here, there = (source.told["protocol"].get(key) for source in (first, other))
        if here != there:
            raise UserError(f"{first.path} and {other.path} differ in {key} ({here} and {there}): {advice}.")
    here, there = (source.told.get("photographs") for source in (first, other))
    prints = {first.fingerprint, other.fingerprint} - {None}
    if here != there or len(prints) > 1 or first.told.get("classes") != other.told.get("classes"):
        raise UserError(f"{first.path} and {other.path} are of other photographs: {advice}.")


def compared(sources: Sequence[Source]) -> list[Features]:
    """All features, each once: a baseline that several results have, with the same numbers, is one."""
    found: list[Features] = []
    for source in sources:
        for features in source.features:
            same = [other for other in found if other.row["name"] == features.row["name"] and not other.pretrained]
            if not any(_equal(other, features) for other in same):
                # Such as the untrained backbone, where architectures differ.
                found.append(
                    dataclasses.replace(features, name=f"{features.name} ({source.name})") if same else features
                )
    return found


def _equal(a: Features, b: Features) -> bool:
    common = set(a.accuracies) & set(b.accuracies)
    return bool(common) and all(a.accuracies[shots] == b.accuracies[shots] for shots in common)


def shots_of_all(features: Sequence[Features]) -> int:
    """The shots at which differences are told: 5 where all have it, else the most that all have.

    Raises:
        UserError: there are none.
    """
    common = set.intersection(*(set(one.accuracies) for one in features))
    if not common:
        raise UserError("these results have no number of shots in common: probe them with the same --shots.")
    return 5 if 5 in common else max(common)
