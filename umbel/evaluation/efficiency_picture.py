"""Accuracy against multiply-adds, a point for each backbone; the area of a point goes with its parameters."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from umbel.evaluation.chart import Paint, plain
from umbel.evaluation.point_names import name_points
from umbel.evaluation.report_charts import FIRST, INK, RULE

WIDTH, HEIGHT = 7.5, 4.6


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One backbone."""

    name: str
    multiply_adds: int
    """Of one image."""
    parameters: int
    accuracy: float
    """Between 0 and 1."""
    interval: float
    """Half the width of its 95 % interval."""


def rows_beside(out: Path) -> list[CostRow]:
    """The backbones whose probe results with costs lie in the folder of a result, and were measured on the same.

    Same: photographs, protocol and shots. Other files are left aside.
    """
    ours = _read(out)
    found = []
    for file in sorted(out.parent.glob("*.json")):
        told = _read(file)
        if ours and told and all(told[key] == ours[key] for key in ("protocol", "photographs", "classes")):
            row, cost = told["rows"][0], told["efficiency"]
            found.append(
                CostRow(
                    name=file.stem,
                    multiply_adds=cost["multiply_adds"],
                    parameters=cost["parameters"],
                    accuracy=row["mean"],
                    interval=row["interval"],
                )
            )
    return found


def paint(rows: Sequence[CostRow], measure: str) -> Paint:
    """The picture, for `umbel.evaluation.chart`; WIDTH x HEIGHT inches.

    Args:
        measure: what the accuracy is, in words.
    """
    return functools.partial(_paint, rows, measure)


def in_words(rows: Sequence[CostRow]) -> str:
    """What the picture shows."""
    told = (f"{row.name} {row.multiply_adds / 1e9:.3g} GMAC {100 * row.accuracy:.1f} %" for row in _sorted(rows))
    return f"Accuracy against multiply-adds: {', '.join(told)}."


def _paint(rows: Sequence[CostRow], measure: str, figure: Figure, colors: dict[str, str]) -> None:
    axes = figure.subplots()
    plain(axes, colors)
    rows = _sorted(rows)
    cost = np.array([row.multiply_adds / 1e9 for row in rows])
    accuracy, half = (100 * np.array([getattr(row, name) for row in rows]) for name in ("accuracy", "interval"))
    best = np.maximum.accumulate(accuracy)
    axes.plot(cost, best, drawstyle="steps-post", color=colors[RULE], linewidth=1.5)
    axes.errorbar(cost, accuracy, half, fmt="none", color=colors[FIRST], elinewidth=1.2)
    area = 260 * np.array([row.parameters for row in rows]) / max(row.parameters for row in rows)
    axes.scatter(cost, accuracy, s=np.maximum(area, 20), color=colors[FIRST], alpha=0.55, linewidth=0, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(cost.min() / 2.2, cost.max() * 2.2)
    low, high = float((accuracy - half).min()), float((accuracy + half).max())
    room = max(2.0, 0.15 * (high - low))
    axes.set_ylim(max(0.0, low - room), high + room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_xlabel("GMAC an image (FLOPs: twice as many), logarithmic", color=colors[INK])
    axes.set_ylabel(measure, color=colors[INK])
    names = [f"{row.name}, {row.parameters / 1e6:.3g} M" for row in rows]
    name_points(axes, names, cost, accuracy, half, colors[INK])


def _sorted(rows: Sequence[CostRow]) -> list[CostRow]:
    return sorted(rows, key=lambda row: row.multiply_adds)


def _read(file: Path) -> dict[str, Any] | None:
    """A probe's result with costs; None for everything else."""
    try:
        told = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or told.get("command") != "probe" or not told.get("efficiency"):
        return None
    return told
