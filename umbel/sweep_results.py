"""What a sweep found so far: a table of its runs, and mean and spread over seeds; as text, Markdown and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel.run import write_atomic
from umbel.run_progress import Progress, is_run, read_progress
from umbel.sweep_grid import Run
from umbel.text_table import aligned

HEADINGS = ("run", "loss", "accuracy", "seconds", "state")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of the table."""

    run: Run
    state: str
    why: str | None
    progress: Progress | None
    """None where nothing was begun."""

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        state = f"{self.state}: {self.why}" if self.why else self.state
        if self.progress is None:
            return (self.run.name, "-", "-", "-", state)
        seconds = f"{self.progress.seconds:.1f}" if self.progress.seconds else "-"
        return (self.run.name, _loss(self.progress), _accuracy(self.progress), seconds, state)


def read_rows(runs: Sequence[Run], states: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The rows of the runs, by what their folders hold now.

    Args:
        states: state and reason of each run, by name.
    """
    return [
        Row(
            run=run,
            state=states[run.name]["state"],
            why=states[run.name].get("why"),
            progress=read_progress(run.config.out) if is_run(run.config.out) else None,
        )
        for run in runs
    ]


def groups(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean and spread (sample standard deviation) over the seeds of runs that are alike and done."""
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys(row.run.group() for row in rows):
        alike = [row.progress for row in rows if row.run.group() == name and row.state == "done" and row.progress]
        told: dict[str, Any] = {"name": name or "all", "runs": len(alike)}
        told["values"] = next(row.run.values for row in rows if row.run.group() == name)
        for field in ("loss", "accuracy"):
            numbers = [value for one in alike if (value := getattr(one, field)) is not None]
            told[field] = _mean_and_spread(numbers)
        found.append(told)
    return found


def lines(rows: Sequence[Row]) -> list[str]:
    """The table as text, headings first."""
    return aligned([HEADINGS, *(row.cells() for row in rows)], right=(1, 2, 3))


def write_results(folder: Path, recipe: str, rows: Sequence[Row], *, seeds: bool) -> None:
    """Write results.json and results.md.

    {"format": 1, "command": "sweep", "recipe", "rows": [{"name", "values", "seed", "state", "why", "step", "steps",
     "loss", "shots", "accuracy", "interval", "seconds"}],
     "groups": [{"name", "values", "runs", "loss": {"mean", "spread"} or null, "accuracy": same}]}
    """
    told: dict[str, Any] = {"format": 1, "command": "sweep", "recipe": recipe}
    told["rows"] = [_record(row) for row in rows]
    told["groups"] = groups(rows) if seeds else []
    write_atomic(folder / "results.json", json.dumps(told, indent=1) + "\n")
    write_atomic(folder / "results.md", markdown(recipe, rows, seeds=seeds))


def markdown(recipe: str, rows: Sequence[Row], *, seeds: bool) -> str:
    """The tables in Markdown."""
    text = [f"# Sweep of the recipe {recipe}", "", markdown_table(HEADINGS, [row.cells() for row in rows])]
    if seeds:
        text += ["", "Mean over seeds, ± the sample standard deviation:", "", markdown_table(*seed_table(rows))]
    return "\n".join(text) + "\n"


def seed_table(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and cells of the table over seeds."""
    cells: list[tuple[str, ...]] = []
    for group in groups(rows):
        loss, accuracy = group["loss"], group["accuracy"]
        cells.append(
            (
                str(group["name"]),
                str(group["runs"]),
                f"{loss['mean']:.4f}{_spread(loss['spread'], '.4f')}" if loss else "-",
                f"{100 * accuracy['mean']:.1f}{_spread(accuracy['spread'], '.1f', 100)} %" if accuracy else "-",
            )
        )
    return ("values", "runs", "loss", "accuracy"), cells


def _spread(value: float | None, form: str, factor: float = 1.0) -> str:
    return "" if value is None else f" ± {factor * value:{form}}"


def markdown_table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Headings and rows as a table in Markdown."""
    rows = [headings, ["---"] * len(headings), *([cell.replace("|", "\\|") for cell in row] for row in cells)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _mean_and_spread(numbers: Sequence[float]) -> dict[str, float | None] | None:
    if not numbers:
        return None
    return {"mean": statistics.fmean(numbers), "spread": statistics.stdev(numbers) if len(numbers) > 1 else None}


def _record(row: Row) -> dict[str, Any]:
    told: dict[str, Any] = {"name": row.run.name, "values": row.run.values, "seed": row.run.seed}
    told |= {"state": row.state, "why": row.why}
    for name in ("step", "steps", "loss", "shots", "accuracy", "interval", "seconds"):
        told[name] = getattr(row.progress, name) if row.progress else None
    return told


def _loss(progress: Progress) -> str:
    return "-" if progress.loss is None else f"{progress.loss:.4f}"


def _accuracy(progress: Progress) -> str:
    if progress.accuracy is None:
        return "-"
    half = "" if progress.interval is None else f" ± {100 * progress.interval:.1f}"
    return f"{100 * progress.accuracy:.1f}{half} % ({progress.shots}-shot)"
