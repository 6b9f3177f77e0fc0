"""Accuracy of small students against multiply-adds: each without its teacher and with it, joined by a line."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from umbel.evaluation.chart import Paint, plain
from umbel.evaluation.point_names import name_points
from umbel.evaluation.report_charts import FIRST, INK, SECOND

WIDTH, HEIGHT = 7.5, 4.9


@dataclass(frozen=True, kw_only=True)
class StudentPoint:
    """A student, with both accuracies or one of them; between 0 and 1."""

    name: str
    multiply_adds: int
    """Of one image."""
    pretrained: bool
    """Its first weights were not drawn."""
    alone: float | None
    """Without the teacher."""
    taught: float | None
    """With it."""


def paint(points: Sequence[StudentPoint], measure: str, teacher: float | None) -> Paint:
    """The picture, for `umbel.evaluation.chart`; WIDTH x HEIGHT inches.

    Args:
        measure: what the accuracy is, in words.
        teacher: its accuracy, a line across.
    """
    return functools.partial(_paint, points, measure, teacher)


def in_words(points: Sequence[StudentPoint]) -> str:
    """What the picture shows."""
    told = (
        f"{point.name} {'pretrained' if point.pretrained else 'from scratch'} {point.multiply_adds / 1e9:.3g} GMAC "
        f"{_percent(point.alone)} alone, {_percent(point.taught)} taught"
        for point in points
    )
    return f"Accuracy against multiply-adds: {'; '.join(told)}."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _paint(
    points: Sequence[StudentPoint], measure: str, teacher: float | None, figure: Figure, colors: dict[str, str]
) -> None:
    axes = figure.subplots()
    plain(axes, colors)
    cost = np.array([point.multiply_adds / 1e9 for point in points])
    ends = [[100 * share for share in (point.alone, point.taught) if share is not None] for point in points]
    for point, x in zip(points, cost.tolist(), strict=True):
        color = colors[SECOND if point.pretrained else FIRST]
        if point.alone is not None and point.taught is not None:
            axes.plot([x, x], [100 * point.alone, 100 * point.taught], color=color, linewidth=1.4, zorder=2)
        for share, face in ((point.alone, "white"), (point.taught, color)):
            if share is not None:
                axes.scatter([x], [100 * share], s=52, facecolor=face, edgecolor=color, linewidth=1.5, zorder=3)
    flat = [value for pair in ends for value in pair] + ([100 * teacher] if teacher is not None else [])
    if teacher is not None:
        axes.axhline(100 * teacher, color=colors[INK], linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    room = max(2.0, 0.16 * (max(flat) - min(flat)))
    axes.set_ylim(max(0.0, min(flat) - room), max(flat) + room)
    axes.set_xscale("log")
    axes.set_xlim(cost.min() / 1.6, cost.max() * 3.2)  # names stand right of their points
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_xlabel("GMAC an image (FLOPs: twice as many), logarithmic", color=colors[INK])
    axes.set_ylabel(measure, color=colors[INK])
    keys = _keys(points, teacher, colors)
    figure.legend(handles=keys, loc="outside upper center", ncols=3, frameon=False, labelcolor=colors[INK], fontsize=9)
    # A name stands beside the middle of its line, and covers neither a line nor the dots at its ends.
    names = [point.name for point in points]
    middle = np.array([(min(pair) + max(pair)) / 2 for pair in ends])
    half = np.array([(max(pair) - min(pair)) / 2 for pair in ends]) + 0.015 * (max(flat) - min(flat) + 2 * room)
    name_points(axes, names, cost, middle, half, colors[INK])


def _keys(points: Sequence[StudentPoint], teacher: float | None, colors: dict[str, str]) -> list[Line2D]:
    """The legend: what stands in the picture, and nothing else."""
    found = []
    for pretrained, words in ((False, "from scratch"), (True, "pretrained")):
        of_these = [point for point in points if point.pretrained == pretrained]
        color = colors[SECOND if pretrained else FIRST]
        for there, face, told in (
            (any(point.alone is not None for point in of_these), "white", f"{words}, alone"),
            (any(point.taught is not None for point in of_these), color, f"{words}, taught"),
        ):
            if there:
                found.append(_key(told, marker="o", markerfacecolor=face, markeredgecolor=color))
    if teacher is not None:
        found.append(Line2D([], [], color=colors[INK], linewidth=1.0, linestyle=(0, (4, 3)), label="the teacher"))
    return found


def _key(label: str, **settings: str) -> Line2D:
    return Line2D([], [], linestyle="none", label=label, **settings)  # type: ignore[arg-type]
