"""A panel for each operation: how far its strengths move an embedding, and how many nearest species change."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from umbel.evaluation.chart import Paint, plain
from umbel.evaluation.report_charts import FIRST, INK, RULE, SECOND
from umbel.evaluation.sensitivity_measure import Moved, Sensitivity

COLUMNS = 4
WIDTH, ROW = 11.0, 2.1
DASHES = (0, (4, 2))


def by_operation(found: Sequence[Moved]) -> list[list[Moved]]:
    """The strengths of each operation, from mild to strong; the operation that moves farthest at any strength first."""
    groups = [list(group) for _, group in groupby(found, key=lambda one: one.operation)]
    return sorted(groups, key=lambda group: -max(one.movement for one in group))


def height(found: Sensitivity) -> float:
    """Inches that the picture needs at WIDTH."""
    return ROW * math.ceil(_panels(found) / COLUMNS) + 1.0


def paint(found: Sensitivity) -> Paint:
    """The picture, for `umbel.evaluation.chart`; WIDTH x `height` inches."""
    return functools.partial(_paint, found)


def in_words(found: Sensitivity) -> str:
    """What the picture shows."""
    strongest = (max(group, key=lambda one: one.movement) for group in by_operation(found.moved))
    told = ", ".join(f"{one.name} {one.movement:.2f}" for one in strongest)
    return f"Movement of an embedding by each operation where it moves farthest (1: another species): {told}."


def _paint(found: Sensitivity, figure: Figure, colors: dict[str, str]) -> None:
    groups = by_operation(found.moved)
    several, single = [g for g in groups if len(g) > 1], [g[0] for g in groups if len(g) == 1]
    count = _panels(found)
    every = figure.subplots(math.ceil(count / COLUMNS), COLUMNS, sharey=True, squeeze=False).flatten()
    top = max(1.0, *(max(one.movement_interval[1], one.changed) for one in found.moved)) * 1.06
    for axes, group in zip(every, several, strict=False):
        _lines(axes, group, several, colors)
    if single:
        _points(every[len(several)], single, colors)
    for axes in every[:count]:
        plain(axes, colors)
        axes.set_ylim(-0.03 * top, top)
        axes.yaxis.set_major_locator(MultipleLocator(0.5))
        axes.axhline(1, color=colors[INK], linewidth=0.8, linestyle=":")
    for axes in every[count:]:
        axes.set_visible(False)
    figure.get_layout_engine().set(hspace=0.08)  # type: ignore[union-attr, call-arg]
    _legend(figure, colors)


def _legend(figure: Figure, colors: dict[str, str]) -> None:
    keys = (
        Line2D([], [], color=colors[FIRST], linewidth=2, marker="o", markersize=4, label="movement, 95 % interval"),
        Line2D(
            [], [], color=colors[SECOND], linewidth=1.6, linestyle=DASHES, label="share whose nearest species changes"
        ),
        Line2D(
            [], [], color=colors[INK], linewidth=0.8, linestyle=":", label="1: as far as another species; all change"
        ),
        Line2D([], [], color=colors[RULE], linewidth=1.2, label="movement by other operations"),
    )
    style: Any = {"ncols": 4, "frameon": False, "labelcolor": colors[INK], "fontsize": 9}
    figure.legend(handles=keys, loc="outside lower center", **style)


def _lines(axes: Axes, group: Sequence[Moved], others: Sequence[Sequence[Moved]], colors: dict[str, str]) -> None:
    for other in others:
        if other is not group:
            axes.plot(np.linspace(0, 1, len(other)), [one.movement for one in other], color=colors[RULE], linewidth=1)
    place = np.linspace(0, 1, len(group))
    low, high = np.array([one.movement_interval for one in group]).T
    axes.fill_between(place, low, high, color=colors[FIRST], alpha=0.2, linewidth=0)
    axes.plot(place, [one.changed for one in group], color=colors[SECOND], linewidth=1.6, linestyle=DASHES)
    axes.plot(place, [one.movement for one in group], color=colors[FIRST], linewidth=2, marker="o", markersize=4)
    axes.set_title(f"{group[0].operation}: {group[0].unit}", fontsize=10, loc="left", color=colors[INK])
    axes.set_xticks(place, [one.label for one in group], fontsize=8)
    axes.set_xlim(-0.08, 1.08)


def _points(axes: Axes, single: Sequence[Moved], colors: dict[str, str]) -> None:
    place = np.arange(len(single))
    movement = np.array([one.movement for one in single])
    reach = np.abs(np.array([one.movement_interval for one in single]).T - movement)
    axes.errorbar(place, movement, reach, color=colors[FIRST], fmt="o", markersize=5, elinewidth=2)
    axes.plot(place, [one.changed for one in single], "_", color=colors[SECOND], markersize=14, markeredgewidth=2)
    axes.set_title("without strengths", fontsize=10, loc="left", color=colors[INK])
    axes.set_xticks(place, [one.operation for one in single], fontsize=8, rotation=20)
    axes.set_xlim(-0.5, len(single) - 0.5)


def _panels(found: Sensitivity) -> int:
    groups = by_operation(found.moved)
    return sum(len(group) > 1 for group in groups) + any(len(group) == 1 for group in groups)
