"""Curves of a run as small pictures inside the page: SVG by matplotlib, in the page's own colors and font."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from umbel.evaluation.report_html import Markup, figure, join, tag

POINTS = 300
WIDTH, HEIGHT, FONT = 340, 200, 13
# Each stands for a color of the page, which differs by day and by night.
INK, RULE, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404"
PAGE_COLORS = {INK: "var(--soft)", RULE: "var(--rule)", FIRST: "var(--leaf)", SECOND: "var(--bark)"}
# Of many lines, each with a dash of its own.
GROUPS = tuple(f"#0505{number:02d}" for number in range(8))
PAGE_COLORS |= {color: f"var(--g{number})" for number, color in enumerate(GROUPS)}
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1.5, 1.5)))


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small picture."""

    title: str
    series: dict[str, str]
    """Column of metrics.jsonl -> its name beside the line; one or two."""
    caption: str
    log: bool = False
    """Logarithmic scale, where all values are positive."""
    zero: bool = False
    """The scale begins at 0."""
    percent: bool = False
    """Values are shares, shown in percent."""


PANELS = (
    Panel(title="Loss", series={"loss": "loss"}, caption="Image loss plus weighted patch loss; lower is better."),
    Panel(
        title="Its two parts",
        series={"image_loss": "image loss", "patch_loss": "patch loss"},
        caption="Class tokens of whole views, and masked patches.",
    ),
    Panel(
        title="Compression and expansion",
        series={"compression": "compression", "expansion": "expansion"},
        caption="How well views of one photograph agree (mean cosine, higher is better), and how much room the "
        "features fill, which should not collapse to 0.",
    ),
    Panel(title="Learning rate", series={"learning_rate": "learning rate"}, caption="Warm-up, then cosine.", zero=True),
)


def curves(metrics: Sequence[dict[str, Any]], panels: Sequence[Panel], *others: Markup) -> Markup:
    """Panels as small multiples, then others; those of which the log has nothing are left out."""
    known = {name for row in metrics for name in row}
    return tag(
        "div", *(_panel(panel, metrics) for panel in panels if known & set(panel.series)), *others, class_="panels"
    )


def _panel(panel: Panel, metrics: Sequence[dict[str, Any]]) -> Markup:
    step = np.array([row["step"] for row in metrics], dtype=float)
    # A line without a good step holds null.
    scale = 100 if panel.percent else 1
    values = [scale * np.array([number(row.get(name)) for row in metrics]) for name in panel.series]
    names, unit = list(panel.series.values()), " %" if panel.percent else ""
    told = [f"{name}: {ends(value, unit)}" for name, value in zip(names, values, strict=True)]
    picture = draw(
        lambda axes: _lines(axes, step, values, log=panel.log, zero=panel.zero),
        alt=f"{panel.title} over steps. {'; '.join(told)}.",
        unit=unit,
    )
    return panel_of(panel.title, picture, panel.caption, above=legend(names) if len(names) > 1 else Markup())


def panel_of(title: str, picture: Markup, caption: str, *, above: Markup) -> Markup:
    """A picture under its title and what explains its lines."""
    return tag("div", tag("h3", title), above, figure(picture, caption), class_="panel")


def legend(names: Sequence[str]) -> Markup:
    """The names of lines, each behind a piece of its line."""
    keys = (tag("span", name, class_=f"key key-{place}") for place, name in enumerate(names))
    return tag("p", *keys, class_="keys")


def number(value: Any) -> float:
    """A value of the log; NaN for null and what is not finite."""
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else np.nan


def ends(values: np.ndarray, unit: str = "") -> str:
    """The first and the last value in words."""
    finite = values[np.isfinite(values)]
    return f"from {finite[0]:.3g}{unit} to {finite[-1]:.3g}{unit}" if len(finite) else "no finite value"


def draw(
    paint: Callable[[Axes], None],
    *,
    alt: str,
    unit: str = "",
    left: float = 0.17,
    across: str = "step",
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Markup:
    """What `paint` puts on axes of steps, as an SVG element.

    Args:
        unit: behind the numbers at the vertical axis.
        left: share of the width that the labels there take.
        across: what the horizontal axis is of.
        size: width and height of the picture's own pixels, beside which its text has 13.
    """
    # A Figure of its own, not pyplot's: no backend is chosen, and nothing global stays changed.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": alt, "font.size": FONT, "text.parse_math": False}
    with matplotlib.rc_context(settings):
        chart = Figure(figsize=(size[0] / 72, size[1] / 72))
        axes = chart.add_axes((left, 0.23, 0.97 - left, 0.72))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{unit}"))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel(across, color=INK)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        paint(axes)
        axes.tick_params(which="both", length=0, labelcolor=INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(RULE)
        buffer = io.StringIO()
        chart.savefig(buffer, format="svg", metadata={"Date": None})
    return for_page(buffer.getvalue(), alt, size)


def _lines(axes: Axes, step: np.ndarray, values: Sequence[np.ndarray], *, log: bool, zero: bool) -> None:
    """Lines over steps; long runs are thinned to POINTS means."""
    parts = thinned(len(step), POINTS)
    across = np.array([step[part].mean() for part in parts])
    for value, color, style in zip(values, (FIRST, SECOND), ("-", (0, (4, 2))), strict=False):
        means = np.array([mean(value[part]) for part in parts])
        alone = "o" if len(across) == 1 else ""
        axes.plot(across, means, color=color, linestyle=style, linewidth=1.8, marker=alone)
    if log and all((value[np.isfinite(value)] > 0).all() for value in values):
        formatter = axes.yaxis.get_major_formatter()
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(formatter)
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    if zero:
        axes.set_ylim(bottom=0)


def thinned(count: int, most: int) -> list[np.ndarray]:
    """Rows of each of at most `most` points."""
    return np.array_split(np.arange(count), min(most, count))


def mean(values: np.ndarray) -> float:
    """Mean of what is finite; NaN without."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def for_page(svg: str, alt: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Markup:
    """matplotlib's SVG file as an element of the page: no file header, no names twice, the page's colors and font."""
    inside = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    inside = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", inside, flags=re.DOTALL)
    # Names such as line2d_1 stand in every picture; those of clips and markers are hashes, and needed.
    inside = re.sub(r' id="[A-Za-z0-9.]+_[a-z0-9_]+"', "", inside).replace("xlink:href", "href")
    # The figure's own background.
    inside = re.sub(r'style="fill: #ffffff[^"]*"', 'style="fill: none"', inside)
    inside = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", inside)
    for placeholder, color in PAGE_COLORS.items():
        inside = inside.replace(placeholder, color)
    lines = (line.strip() for line in inside.splitlines())
    content = Markup("\n".join(line for line in lines if line))
    return tag("svg", join(content), viewBox=f"0 0 {size[0]} {size[1]}", role="img", aria_label=alt)
