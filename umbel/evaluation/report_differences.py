"""Differences of features with their intervals: dots and whiskers against the best, and all pairs in a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from umbel.evaluation.report_html import SPACE, Markup, aside, join, table, tag
from umbel.evaluation.report_paired import MINUS, excludes_zero, paired
from umbel.evaluation.report_results import Features


def differences(ranked: Sequence[Features], shots: int) -> Markup:
    """The best one's lead over each other, then every pair.

    Args:
        ranked: best first.
    """
    if len(ranked) < 2:
        return aside("There are no differences: nothing stands beside these features.")
    pairs = []
    for place, first in enumerate(ranked):
        for second in ranked[place + 1 :]:
            pairs.append((first, second, paired(first, second, shots)))
    leads = [(second.name, lead) for first, second, lead in pairs if first is ranked[0] and lead]
    rows = [(first.name, second.name, points(lead), _verdict(first, lead)) for first, second, lead in pairs]
    caption = (
        f"Paired differences of {shots}-shot accuracy over the same draws, in percentage points, with the 95 % "
        "interval: of the choice of queries and support where the result itself tells the difference, and of the "
        "choice of the support alone, which is narrower, between results. "
        "Where it holds 0, no difference can be told. One in twenty such intervals is wrong by "
        "chance alone, so that of many pairs some are."
    )
    return join(
        dots(leads, against=ranked[0].name, shots=shots) if leads else Markup(),
        table(("First", "Second", "First minus second", "Verdict"), rows, name="Differences", caption=caption),
    )


def points(lead: tuple[float, float] | None) -> str:
    """+3.2 ± 0.8."""
    if lead is None:
        return "–"
    value = 100 * lead[0]
    sign = MINUS if value < -0.05 else "+"
    return f"{sign}{abs(value):.1f}{SPACE}±{SPACE}{100 * lead[1]:.1f}"


def _verdict(first: Features, lead: tuple[float, float] | None) -> str:
    if lead is None:
        return "not measured on the same draws"
    # The first of a pair never has the smaller mean.
    return f"{first.name} is better" if excludes_zero(lead) else "no difference can be told"


def dots(leads: Sequence[tuple[str, tuple[float, float]]], *, against: str, shots: int) -> Markup:
    """A dot for each difference on one scale that holds 0, its interval as a whisker."""
    low = min(0.0, *(mean - half for _, (mean, half) in leads))
    high = max(0.0, *(mean + half for _, (mean, half) in leads))
    # Round ends, in percentage points.
    step = next(step for step in (1, 2, 5, 10, 20, 50) if 100 * (high - low) <= 5 * step or step == 50)
    left, right = math.floor(100 * low / step) * step, max(step, math.ceil(100 * high / step) * step)

    def place(share: float) -> float:
        return 100 * (100 * share - left) / (right - left)

    lines = []
    for name, (mean, half) in leads:
        zero = tag("span", class_="zero", style=f"left:{place(0):.2f}%")
        wide = place(mean + half) - place(mean - half)
        whisker = tag("span", class_="whisker", style=f"left:{place(mean - half):.2f}%;width:{wide:.2f}%")
        dot = tag("span", class_="point", style=f"left:{place(mean):.2f}%")
        label = tag("div", tag("span", f"over {name}"), tag("span", points((mean, half))), class_="label")
        lines.append(tag("div", label, tag("div", zero, whisker, dot, class_="track thin"), class_="bar"))
    ticks = [tag("span", f"{value:g}".replace("-", MINUS)) for value in (left, (left + right) / 2, right)]
    told = "; ".join(f"over {name}: {points(lead)}" for name, lead in leads)
    alt = f"Lead of {against} in {shots}-shot accuracy, in percentage points. {told}."
    title = tag("h3", f"Lead of {against} over each other, percentage points")
    return join(
        title, tag("div", *lines, tag("div", *ticks, class_="scale"), class_="bars", role="img", aria_label=alt)
    )
