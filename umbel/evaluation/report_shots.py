"""Few-shot accuracy over the number of shots, a line with its interval for each kind of features, and as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from umbel.evaluation.report_charts import DASHES, GROUPS, draw
from umbel.evaluation.report_html import SPACE, Markup, aside, figure, join, table, tag
from umbel.evaluation.report_results import Ends, Features

SIZE = 440, 250
MARKERS = "os^Dv"


def over_shots(ranked: Sequence[Features], guessing: float | None) -> Markup:
    """The curve; a sentence where only one number of shots was measured.

    Args:
        guessing: accuracy by chance.
    """
    shots = sorted({shots for features in ranked for shots in features.curve})
    if len(shots) < 2:
        told = f"There is no curve over shots: only {shots[0]} shot{'s were' if shots[0] > 1 else ' was'} measured."
        return aside(told)
    drawn = ranked[: len(GROUPS)]

    def paint(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(shots))
        axes.xaxis.set_minor_locator(NullLocator())
        # The scale brings its own: powers of ten.
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for place, features in enumerate(drawn):
            at = np.array(list(features.curve))
            value, low, high = 100 * np.array(list(features.curve.values())).T
            color, dash = GROUPS[place], DASHES[place % len(DASHES)]
            axes.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
            marker = MARKERS[place % len(MARKERS)]
            axes.plot(at, value, color=color, linestyle=dash, linewidth=1.8, marker=marker, markersize=5)
        axes.set_ylim(bottom=0)

    told = "; ".join(f"{of.name}: {', '.join(_at(of, number) for number in of.curve)}" for of in ranked)
    alt = f"Few-shot accuracy over shots of each class, logarithmic. {told}."
    picture = draw(paint, alt=alt, unit=" %", left=0.12, across="shots of each class (logarithmic)", size=SIZE)
    keys = [tag("span", of.name, class_=f"line line-{place}") for place, of in enumerate(drawn)]
    caption = "Nearest centroid: means over draws of the support, with the band of their 95 % interval."
    caption += f" Guessing reaches {100 * guessing:.1f}{SPACE}%." if guessing else ""
    rows = [
        (of.name, *(with_interval(of.curve[number]) if number in of.curve else "–" for number in shots))
        for of in ranked
    ]
    head = ("Features", *(f"{number} shot{'s' if number > 1 else ''}" for number in shots))
    return join(
        tag("p", *keys, class_="keys"),
        figure(picture, caption, class_="curve"),
        table(head, rows, name="Accuracy by shots", caption="The same in numbers, with 95 % intervals."),
    )


def _at(features: Features, shots: int) -> str:
    return f"{with_interval(features.curve[shots])} at {shots}"


def with_interval(ends: Ends) -> str:
    """12.3 ± 0.4 %, or both ends where they are not equally far."""
    value, low, high = (100 * end for end in ends)
    if abs((high - value) - (value - low)) < 0.1:
        return f"{value:.1f}{SPACE}±{SPACE}{(high - low) / 2:.1f}{SPACE}%"
    return f"{value:.1f}{SPACE}% ({low:.1f} to {high:.1f})"
