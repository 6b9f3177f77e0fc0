"""Names beside the points of a chart, each where it covers neither a point nor another name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

# In points from the middle of a point: to both sides, above and below, farther.
PLACES = (
    (9, 4),
    (-9, 4),
    (9, -4),
    (-9, -4),
    (0, 12),
    (0, -12),
    (10, 14),
    (-10, 14),
    (10, -14),
    (-10, -14),
    (12, 26),
    (-12, -26),
)
SIDES = {1: "left", -1: "right", 0: "center"}
STANDS = {1: "bottom", -1: "top", 0: "center"}


def name_points(axes: Axes, names: Sequence[str], x: np.ndarray, y: np.ndarray, half: np.ndarray, color: str) -> None:
    """Write the names; one for which all places are taken stands right of its point all the same.

    Args:
        x, y: (n,) the points.
        half: (n,) half the length of the whisker of each, not to be covered either.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    # The scale must be known, and what is written must not change it.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    ends = [axes.transData.transform([(one, two - h), (one, two + h)]) for one, two, h in zip(x, y, half, strict=True)]
    taken = [Bbox(end).padded(5) for end in ends]
    for name, one, two in zip(names, x, y, strict=True):
        tried = []
        for place in PLACES:
            written = _write(axes, name, (one, two), place, color)
            box = written.get_window_extent()
            tried.append((sum(box.overlaps(other) for other in taken), _outside(box, axes.get_window_extent()), place))
            written.remove()
        best = min(tried, key=lambda found: found[:2])[2]
        taken.append(_write(axes, name, (one, two), best, color).get_window_extent())


def _write(axes: Axes, name: str, point: tuple[float, float], place: tuple[int, int], color: str) -> Annotation:
    return axes.annotate(
        name,
        point,
        xytext=place,
        textcoords="offset points",
        ha=SIDES[int(np.sign(place[0]))],
        va=STANDS[int(np.sign(place[1]))],
        fontsize=9,
        color=color,
    )


def _outside(box: Bbox, frame: Bbox) -> float:
    """Pixels that a name stands beyond its axes."""
    return float(max(0.0, frame.x0 - box.x0) + max(0.0, box.x1 - frame.x1))
