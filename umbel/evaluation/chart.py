"""Charts that stand both in a file of their own and inside the report: the same drawing, as PNG and as markup."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from umbel.evaluation.report_charts import FIRST, INK, RULE, SECOND, for_page
from umbel.evaluation.report_html import Markup
from umbel.picture import save_picture

# The page's colors by day: on paper there is no night.
ON_PAPER = {INK: "#566050", RULE: "#ddd9c9", FIRST: "#3c6e37", SECOND: "#9a5b1e"}
Paint = Callable[[Figure, dict[str, str]], None]
"""Draws on an empty figure; the dictionary gives the color that each of the page's stands for."""


def save_chart(paint: Paint, out: Path, command: str, *, width: float, height: float) -> None:
    """Write a chart of width x height inches as PNG.

    Raises:
        UserError: see `save_picture`.
    """
    buffer = io.BytesIO()
    _draw(paint, ON_PAPER, width, height).savefig(buffer, format="png", dpi=130, facecolor="white")
    with Image.open(buffer) as picture:
        save_picture(picture.convert("RGB"), out, command)


def chart_for_page(paint: Paint, alt: str, *, width: float, height: float) -> Markup:
    """A chart of width x height inches as an SVG element in the page's colors.

    Args:
        alt: what it shows, in words.
    """
    # Text stays text, and names inside repeat.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": alt}
    with matplotlib.rc_context(settings):
        buffer = io.StringIO()
        same = {color: color for color in ON_PAPER}
        _draw(paint, same, width, height).savefig(buffer, format="svg", metadata={"Date": None})
    return for_page(buffer.getvalue(), alt, (round(72 * width), round(72 * height)))


def plain(axes: Axes, colors: dict[str, str]) -> None:
    """The look of a report's panel: a line below, light lines across, words in a soft color."""
    axes.grid(axis="y", color=colors[RULE], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelcolor=colors[INK])
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colors[RULE])


def _draw(paint: Paint, colors: dict[str, str], width: float, height: float) -> Figure:
    # A Figure of its own, not pyplot's: no backend is chosen. A species' name may hold a dollar sign.
    settings: Any = {"text.parse_math": False, "font.size": 10}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure, colors)
        figure.canvas.draw()
    return figure
