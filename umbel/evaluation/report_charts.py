"""Curves of a run as small pictures inside the page: SVG by matplotlib, in the page's own colors and font."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from umbel.evaluation.report_html import Markup, figure, join, tag

POINTS = 300
WIDTH, HEIGHT, FONT = 340, 200, 13
# Each stands for a color of the page, which differs by day and by night.
INK, RULE, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404"
PAGE_COLORS = {INK: "var(--soft)", RULE: "var(--rule)", FIRST: "var(--leaf)", SECOND: "var(--bark)"}


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
    Panel(
        title="Gradient norm",
        series={"grad_norm_backbone": "backbone", "grad_norm_head": "head"},
        caption="Before clipping, logarithmic.",
        log=True,
    ),
    Panel(title="Learning rate", series={"learning_rate": "learning rate"}, caption="Warm-up, then cosine.", zero=True),
    Panel(
        title="Images per second", series={"images_per_second": "images/s"}, caption="Data loading included.", zero=True
    ),
)


def curves(metrics: Sequence[dict[str, Any]]) -> Markup:
    """All panels as small multiples."""
    return tag("div", *(_panel(panel, metrics) for panel in PANELS), class_="panels")


def _panel(panel: Panel, metrics: Sequence[dict[str, Any]]) -> Markup:
    step = np.array([row["step"] for row in metrics], dtype=float)
    # A line without a good step holds null.
    values = [np.array([_number(row.get(name)) for row in metrics]) for name in panel.series]
    names = list(panel.series.values())
    keys = [tag("span", name, class_=f"key key-{number}") for number, name in enumerate(names)]
    legend = tag("p", *keys, class_="keys") if len(names) > 1 else Markup()
    told = [f"{name}: {_ends(value)}" for name, value in zip(names, values, strict=True)]
    picture = draw_lines(
        step, values, log=panel.log, zero=panel.zero, alt=f"{panel.title} over steps. {'; '.join(told)}."
    )
    return tag("div", tag("h3", panel.title), legend, figure(picture, panel.caption), class_="panel")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else np.nan


def _ends(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    return f"from {finite[0]:.3g} to {finite[-1]:.3g}" if len(finite) else "no finite value"


def draw_lines(step: np.ndarray, values: Sequence[np.ndarray], *, log: bool, zero: bool, alt: str) -> Markup:
    """Lines over steps as an SVG element; long runs are thinned to POINTS means."""
    # A Figure of its own, not pyplot's: no backend is chosen, and nothing global stays changed.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": alt, "font.size": FONT, "text.parse_math": False}
    with matplotlib.rc_context(settings):
        chart = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        axes = chart.add_axes((0.17, 0.23, 0.8, 0.72))
        parts = np.array_split(np.arange(len(step)), min(POINTS, len(step)))
        across = np.array([step[part].mean() for part in parts])
        for value, color, style in zip(values, (FIRST, SECOND), ("-", (0, (4, 2))), strict=False):
            means = np.array([_mean(value[part]) for part in parts])
            alone = "o" if len(across) == 1 else ""
            axes.plot(across, means, color=color, linestyle=style, linewidth=1.8, marker=alone)
        if log and all((value[np.isfinite(value)] > 0).all() for value in values):
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        if zero:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("step", color=INK)
        axes.tick_params(which="both", length=0, labelcolor=INK)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(RULE)
        buffer = io.StringIO()
        chart.savefig(buffer, format="svg", metadata={"Date": None})
    return for_page(buffer.getvalue(), alt)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def for_page(svg: str, alt: str) -> Markup:
    """matplotlib's SVG file as an element of the page: no file header, no names twice, the page's colors and font."""
    inside = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    inside = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", inside, flags=re.DOTALL)
    # Names such as line2d_1 stand in every picture; those of clips and markers are hashes, and needed.
    inside = re.sub(r' id="[a-z0-9.]+_[a-z0-9_]+"', "", inside).replace("xlink:href", "href")
    # The figure's own background.
    inside = re.sub(r'style="fill: #ffffff[^"]*"', 'style="fill: none"', inside)
    inside = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", inside)
    for placeholder, color in PAGE_COLORS.items():
        inside = inside.replace(placeholder, color)
    lines = (line.strip() for line in inside.splitlines())
    content = Markup("\n".join(line for line in lines if line))
    return tag("svg", join(content), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=alt)
