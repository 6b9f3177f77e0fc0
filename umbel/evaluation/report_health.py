"""How healthy a run was and how fast: what its log tells of features, gradients, probes, speed and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from umbel.evaluation.report_charts import FIRST, SECOND, Panel, curves, draw, ends, legend, panel_of
from umbel.evaluation.report_gradients import gradients_by_part
from umbel.evaluation.report_html import Markup, aside, join, tag
from umbel.evaluation.report_words import features_told, of_one_curve, percent, speed

OF_GRADIENTS = Panel(
    title="Gradient norm",
    series={"grad_norm_backbone": "backbone", "grad_norm_head": "head"},
    caption="Before clipping, logarithmic.",
    log=True,
)
SPEED = (
    Panel(
        title="Images per second", series={"images_per_second": "images/s"}, caption="Data loading included.", zero=True
    ),
    Panel(
        title="Use of the device (MFU)",
        series={"mfu": "model", "mfu_executed": "computed"},
        caption="Share of the device's speed in matrix products that the model's operations take, and those that are "
        "really computed (drop path leaves some out, checkpointing repeats some).",
        zero=True,
        percent=True,
    ),
    Panel(
        title="Waiting for data",
        series={"data_wait": "waiting"},
        caption="Share of the time; 0 is best.",
        zero=True,
        percent=True,
    ),
    Panel(title="Memory", series={"memory_gib": "GiB"}, caption="Peak so far, in GiB.", zero=True),
)


def health_section(metrics: Sequence[dict[str, Any]], warmup_epochs: float, lost: str) -> Markup:
    """The verdict in words, then the pictures.

    Args:
        lost: whether steps or photographs were lost, in words.
    """
    told, advice = features_told(metrics, warmup_epochs)
    if advice:
        first = tag("p", f"{told} {advice}", class_="warning")
    elif told:
        first = tag("p", told)
    else:
        first = aside("The features were not measured while the run was trained.")
    panels = curves(metrics, (*_of_features(metrics), OF_GRADIENTS), gradients_by_part(metrics))
    return join(first, tag("p", lost), panels)


def _of_features(metrics: Sequence[dict[str, Any]]) -> tuple[Panel, ...]:
    most = {int(row["effective_rank_limit"]) for row in metrics if row.get("effective_rank_limit")}
    limit = f" (at most {max(most)} here)" if most else ""
    return (
        Panel(
            title="Effective rank",
            series={"effective_rank": "effective rank"},
            caption=f"How many directions the teacher's class tokens fill{limit}; 1 is collapse.",
            zero=True,
        ),
        Panel(
            title="Cosines",
            series={"cosine": "other photographs", "agreement": "teacher and student"},
            caption="Mean cosine of outputs: of different photographs, where 1 is collapse, and of the student and the "
            "teacher on the same view, where 1 is agreement.",
        ),
        Panel(
            title="Share of the coding rate",
            series={"coding_rate_share": "share"},
            caption="The coding rate of the teacher's outputs over the greatest that so many unit vectors can have.",
            zero=True,
            percent=True,
        ),
    )


def speed_section(metrics: Sequence[dict[str, Any]]) -> Markup:
    """How fast training was, and what it waited for."""
    return join(tag("p", speed(metrics)), curves(metrics, SPEED))


def probe_panel(probes: Sequence[dict[str, Any]]) -> Markup:
    """Few-shot accuracy by step with its interval; nothing without probes."""
    if not probes:
        return Markup()
    shots, classes = probes[-1]["shots"], probes[-1].get("classes")
    rows = of_one_curve(probes)
    step, accuracy, half = (
        np.array([row[name] for row in rows], dtype=float) for name in ("step", "accuracy", "interval")
    )

    def paint(axes: Axes) -> None:
        axes.fill_between(step, 100 * (accuracy - half), 100 * (accuracy + half), color=FIRST, alpha=0.25, linewidth=0)
        axes.plot(step, 100 * accuracy, color=FIRST, linewidth=1.8, marker="o", markersize=4)
        if classes:
            axes.plot(step, np.full(len(step), 100 / classes), color=SECOND, linewidth=1.8, linestyle=(0, (4, 2)))
        axes.set_ylim(bottom=0)

    caption = f"Of the teacher's class token on {rows[-1]['photographs']:,} photographs, with the 95 % interval of the "
    caption += "choice of the support."
    picture = draw(paint, alt=f"{shots}-shot accuracy over steps: {ends(100 * accuracy, ' %')}.", unit=" %")
    above = legend((f"{shots} shots", f"guessing, {percent(1 / classes)}")) if classes else Markup()
    return panel_of(f"{shots}-shot accuracy", picture, caption, above=above)
