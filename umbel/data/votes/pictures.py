"""Pictures of a comparison: accuracy against share kept, the users' weights, the species that are kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from umbel.data.votes.aggregation import Aggregation
from umbel.data.votes.measures import Measures, Truth, accuracy_against_kept

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
"""Seven colors that all can tell apart (Okabe and Ito)."""
POINTS = 300
LEAST_SHARE = 0.05
"""Below this share kept, accuracies are those of a few observations."""


def draw(
    found: Mapping[str, Aggregation],
    truth: Truth,
    table: Mapping[str, Mapping[str, Measures]],
    *,
    theta_conf: float,
) -> Figure:
    """Three panels side by side.

    Args:
        found: strategy -> what it found.
        table: subset -> strategy -> measures.
    """
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    colors = dict(zip(found, COLORS, strict=False))
    _accuracy(left, found, truth, table["all"], colors)
    _weights(middle, found, colors, theta_conf)
    _species(right, table, colors)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _accuracy(
    axes: Axes,
    found: Mapping[str, Aggregation],
    truth: Truth,
    rows: Mapping[str, Measures],
    colors: Mapping[str, str],
) -> None:
    """What a threshold on conf would keep as a line, what the strategy itself keeps as a dot."""
    for name, aggregation in found.items():
        kept, accuracy = accuracy_against_kept(aggregation, truth)
        kept, accuracy = kept[kept >= LEAST_SHARE], accuracy[kept >= LEAST_SHARE]
        few = np.unique(np.linspace(0, len(kept) - 1, min(POINTS, len(kept))).astype(int))
        axes.plot(kept[few], accuracy[few], color=colors[name], linewidth=1.5)
        axes.plot(rows[name].kept, rows[name].accuracy_of_valid, "o", color=colors[name], markersize=8, zorder=3)
    axes.set_title("Accuracy against share kept")
    axes.set_xlabel("share of observations kept (dot: the valid ones; line: by conf)")
    axes.set_ylabel("accuracy of what is kept")
    axes.set_xlim(0, 1.03)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))


def _weights(axes: Axes, found: Mapping[str, Aggregation], colors: Mapping[str, str], theta_conf: float) -> None:
    """How many users have at least a weight, where weights are learned: shares and probabilities stay below 1."""
    for name, aggregation in found.items():
        weight = np.sort(aggregation.weight)[::-1]
        if weight[0] > 1:
            axes.step(weight, np.arange(1, len(weight) + 1), where="post", color=colors[name], linewidth=1.5)
    axes.axvline(theta_conf, color="0.4", linestyle=":", linewidth=1.2)
    axes.annotate(
        "validates alone", (theta_conf, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -2),
        textcoords="offset points", va="top", color="0.3", fontsize=9,
    )  # fmt: skip
    axes.set_yscale("log")
    axes.set_title("User weights, f(n)")
    axes.set_xlabel("weight")
    axes.set_ylabel("users with at least this weight")


def _species(axes: Axes, table: Mapping[str, Mapping[str, Measures]], colors: Mapping[str, str]) -> None:
    """Bars by subset, one for each strategy."""
    width = 0.85 / len(colors)
    for number, (name, color) in enumerate(colors.items()):
        heights = [rows[name].species_kept for rows in table.values()]
        places = np.arange(len(table)) + (number - (len(colors) - 1) / 2) * width
        axes.bar(places, heights, width * 0.92, color=color, label=name)
    counts = (next(iter(rows.values())).observations for rows in table.values())
    axes.set_xticks(
        np.arange(len(table)), [f"{name}\n{count:,} obs." for name, count in zip(table, counts, strict=True)]
    )
    axes.set_title("Species kept")
    axes.set_ylabel("share of the truth's species")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
