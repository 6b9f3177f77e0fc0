"""What a probe found, as tables and sentences on the terminal. No number stands without its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umbel.evaluation.classification import Confusion
from umbel.evaluation.estimates import Estimate
from umbel.evaluation.groups import GroupRow
from umbel.evaluation.probe_rows import Measured
from umbel.evaluation.taxonomy import in_words


def table(measured: Sequence[Measured]) -> str:
    """Few-shot and k-NN accuracy in percent, a line for each kind of features."""
    first = measured[0]
    shots = [found["shots"] for found in first.details["centroid"]]
    head = [f"{count}-shot centroid, {first.row.draws} draws" for count in shots]
    lines = [("features", *head, f"{first.row.k}-NN weighted", "plain")]
    for one in measured:
        cells = [_over_draws(found["micro"]) for found in one.details["centroid"]]
        nearest = one.details["nearest"]
        lines.append((one.row.name, *cells, str(nearest["weighted"]["micro"]), str(nearest["plain"]["micro"])))
    return aligned(lines)


def more_table(measured: Sequence[Measured]) -> str:
    """Everything else, a line for each measure and a column for each kind of features."""
    columns = [dict(_measures(one.details)) for one in measured]
    lines = [("measure", *(one.row.name for one in measured))]
    lines += [(name, *(column.get(name, "") for column in columns)) for name in columns[0]]
    return aligned(lines)


def _measures(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and cells."""
    cells: list[tuple[str, str]] = []
    for found in details["centroid"]:
        cells.append((f"{found['shots']}-shot, mean over species", _over_draws(found["macro"])))
        if found["top5"]:
            cells.append((f"{found['shots']}-shot, top 5", _over_draws(found["top5"])))
    cells.append(("k-NN, mean over species", str(details["nearest"]["weighted"]["macro"])))
    for found in details.get("episodes", ()):
        name = f"{found['ways']} species at a time, {found['shots']} shots, {found['episodes']} episodes"
        cells.append((name, _over_draws(found["accuracy"])))
    for kind, name in (("logistic", "logistic regression"), ("linear", "linear probe")):
        if found := details.get(kind):
            cells += [(name, str(found["micro"])), (f"{name}, mean over species", str(found["macro"]))]
            if found["top5"]:
                cells.append((f"{name}, top 5", str(found["top5"])))
            cells.append((f"{name}, calibration error", str(found["calibration_error"])))
    for found in details.get("open_set", ()):
        cells.append((f"unknown species by {found.score}, area under ROC", str(found.auroc)))
        cells.append((f"unknown species by {found.score}, accepted at 95 % recall", str(found.false_accepts)))
    free = details.get("label_free", {})
    if "rankme" in free:
        cells.append((f"RankMe, of {free['width']}", _number(free["rankme"], 1)))
        cells.append(("uniformity", _number(free["uniformity"], 3)))
    if "alignment" in free:
        cells.append(("alignment with the mirrored photograph", _number(free["alignment"], 4)))
    return cells


def sentences(measured: Measured, classes: Sequence[str]) -> list[str]:
    """Of the first features: by frequency, by organ, by level of the classification, what is confused most."""
    told = []
    nearest = measured.details["nearest"]["weighted"]
    for name, key in (("frequency of the species", "frequency"), ("organ", "organ")):
        rows: list[GroupRow] = nearest[key]
        if rows:
            listed = "; ".join(f"{row.name} {row.accuracy} of {row.count}" for row in rows)
            told.append(f"k-NN by {name}: {listed}.")
    if nearest["taxonomy"]:
        told.append(f"k-NN at higher levels: {'; '.join(in_words(nearest['taxonomy']))}.")
    pairs: list[Confusion] = nearest["confusions"][:3]
    if pairs:
        listed = "; ".join(
            f"{_name(pair.true, classes)} for {_name(pair.predicted, classes)} ({pair.count} times)" for pair in pairs
        )
        told.append(f"k-NN mistakes most often {listed}.")
    return told


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def _over_draws(estimate: Estimate) -> str:
    """`87.9 ± 0.7 %`: an interval over draws is symmetric."""
    return f"{100 * estimate.value:.1f} ± {100 * (estimate.high - estimate.value):.1f} %"


def _number(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if label < len(classes) else str(label)
