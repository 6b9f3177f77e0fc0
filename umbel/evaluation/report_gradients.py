"""Where in the network gradients are large: a strip of shades for each of its parts, over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from umbel.evaluation.report_charts import FIRST, draw, ends, mean, number, panel_of, thinned
from umbel.evaluation.report_html import Markup, tag

COLUMNS, SHADES, LABELS = 60, 8, 7
HEIGHT = 0.9
"""Of a strip; the rest is the gap to the next one."""


def gradients_by_part(metrics: Sequence[dict[str, Any]]) -> Markup:
    """A strip for each part of the network, dark where its gradient is large; nothing where the log has no norms."""
    rows = [row for row in metrics if isinstance(row.get("grad_norms"), dict) and row["grad_norms"]]
    if not rows:
        return Markup()
    parts = list(dict.fromkeys(name for row in rows for name in row["grad_norms"]))
    step = np.array([row["step"] for row in rows], dtype=float)
    norms = np.array([[number(row["grad_norms"].get(part)) for row in rows] for part in parts])  # (parts, rows)
    with np.errstate(divide="ignore"):
        logs = np.where(norms > 0, np.log10(norms), np.nan)
    columns = thinned(len(step), COLUMNS)
    cells = np.array([[mean(of_part[column]) for column in columns] for of_part in logs])
    if not np.isfinite(cells).any():
        return Markup()
    low, high = np.nanmin(cells), np.nanmax(cells)
    shades = np.clip((cells - low) / max(high - low, 1e-9) * SHADES, 0, SHADES - 1)
    # A cell reaches from the line of the log before it to its own last one.
    before = np.append(2 * step[0] - step[1] if len(step) > 1 else 0, step[:-1])
    edges = np.append(before[[column[0] for column in columns]], step[-1])
    told = "; ".join(f"{part}: {ends(of_part)}" for part, of_part in zip(parts, norms, strict=True))
    picture = draw(
        lambda axes: _strips(axes, edges, shades, parts), alt=f"Gradient norm by part over steps. {told}.", left=0.25
    )
    swatches = [tag("span", "", class_="shade", style=f"opacity:{_opacity(shade):.2f}") for shade in range(SHADES)]
    bar = tag("span", *swatches, class_="shades", aria_hidden="true")
    scale = tag("p", tag("span", f"{10**low:.2g}"), bar, tag("span", f"{10**high:.2g}"), class_="keys")
    caption = "Gradient norm of each part of the network before clipping, from below upwards; shades are logarithmic."
    return panel_of("Gradients by part", picture, caption, above=scale)


def _opacity(shade: float) -> float:
    return 0.08 + 0.92 * shade / (SHADES - 1)


def _box(left: float, right: float, row: int) -> Path:
    corners = [(left, row), (right, row), (right, row + HEIGHT), (left, row + HEIGHT), (left, row)]
    return Path(corners, closed=True)


def _strips(axes: Axes, edges: np.ndarray, shades: np.ndarray, parts: Sequence[str]) -> None:
    """Cells of one shade are one path: the page's color, more or less of it."""
    for shade in range(SHADES):
        found = np.argwhere(np.floor(shades) == shade)
        if len(found):
            path = Path.make_compound_path(*(_box(edges[column], edges[column + 1], row) for row, column in found))
            axes.add_patch(PathPatch(path, facecolor=FIRST, edgecolor="none", alpha=_opacity(shade)))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, len(parts))
    axes.grid(visible=False)
    every, last = math.ceil(len(parts) / LABELS), len(parts) - 1
    labeled = [*(row for row in range(0, last, every) if last - row > every / 2), last]
    axes.set_yticks([row + HEIGHT / 2 for row in labeled], [parts[row] for row in labeled])
