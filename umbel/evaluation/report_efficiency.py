"""What backbones cost to run: size, multiply-adds, time, memory and energy, and accuracy against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from umbel.evaluation.chart import chart_for_page
from umbel.evaluation.efficiency_picture import HEIGHT, WIDTH, CostRow, in_words, paint
from umbel.evaluation.report_html import Markup, aside, figure, join, table
from umbel.evaluation.report_results import Ends
from umbel.run import UserError

NONE = "What the backbone costs to run was not measured (`umbel probe BACKBONE --efficiency --out`)."


def efficiency_section(told: Mapping[str, Mapping[str, Any]], reached: Mapping[str, Ends], measure: str) -> Markup:
    """Two tables; and a picture where several backbones were measured.

    Args:
        told: name of the features -> probe.json of them.
        reached: name -> accuracy with its interval.
        measure: what that accuracy is, in words.

    Raises:
        UserError: costs that cannot be read.
    """
    measured = {name: one["efficiency"] for name, one in told.items() if one.get("efficiency")}
    if not measured:
        return aside(NONE)
    try:
        return join(_against(measured, reached, measure), _size(measured), _speed(measured))
    except (KeyError, TypeError) as error:
        raise UserError(f"the costs of {', '.join(measured)} cannot be read ({error}): measure them again.") from error


def _against(measured: Mapping[str, Mapping[str, Any]], reached: Mapping[str, Ends], measure: str) -> Markup:
    rows = []
    for name, cost in measured.items():
        if name in reached:
            share, low, high = reached[name]
            size = {"multiply_adds": cost["multiply_adds"], "parameters": cost["parameters"]}
            rows.append(CostRow(name=name, accuracy=share, interval=(high - low) / 2, **size))
    if len(rows) < 2:
        return Markup()
    drawn = chart_for_page(paint(rows, measure), in_words(rows), width=WIDTH, height=HEIGHT)
    caption = "Accuracy against multiply-adds; the area of a point goes with the parameters."
    return figure(drawn, caption, class_="chart narrow")


def _size(measured: Mapping[str, Mapping[str, Any]]) -> Markup:
    rows = []
    for name, cost in measured.items():
        rows.append(
            (
                name,
                f"{cost['image_size']} px",
                f"{cost['parameters'] / 1e6:.2f} M",
                f"{cost['multiply_adds'] / 1e9:.3g}",
                f"{cost['bytes'] / 1e6:.1f} MB",
            )
        )
    head = ("Backbone", "Input", "Parameters", "GMAC an image", "Weights")
    caption = "Without a classifier. GMAC: a thousand million multiply-adds; FLOPs are twice as many. "
    caption += _each(measured, lambda cost: f"Weights are those of {cost['bytes_of']}")
    return table(head, rows, name="Size of the backbone", caption=caption)


def _speed(measured: Mapping[str, Mapping[str, Any]]) -> Markup:
    lines: list[tuple[str, Mapping[str, Any]]] = [
        (name, one) for name, cost in measured.items() for one in cost["latency"]
    ]
    rows = []
    for name, one in lines:
        p95, memory, energy = one["p95_ms"], one["peak_memory_bytes"], one["joules_per_1000_images"]
        rows.append(
            (
                name,
                str(one["batch"]),
                f"{one['p50_ms']:.4g} ms",
                "–" if p95 is None else f"{p95:.4g} ms",
                f"{one['images_per_second']:,.4g}",
                "–" if memory is None else f"{memory / 2**20:,.0f} MiB",
                "–" if energy is None else f"{energy:,.4g} J",
            )
        )
    head = ("Backbone", "Batch", "Median", "95th percentile", "Images a second", "Peak memory", "1,000 images")
    caption = _each(measured, lambda cost: f"{cost['device']}, {cost['threads']} thread(s), {cost['precision']}")
    caption += f" {_each(measured, _energy)}"
    if any(one["p95_ms"] is None for _, one in lines):
        caption += " No 95th percentile is told of fewer than 20 batches."
    return table(head, rows, name="Speed and memory of the backbone", caption=caption)


def _energy(cost: Mapping[str, Any]) -> str:
    if cost["energy_reason"]:
        return f"Energy is not known: {cost['energy_reason']}"
    return f"Energy by {cost['energy_of']}"


def _each(measured: Mapping[str, Mapping[str, Any]], words: Callable[[Mapping[str, Any]], str]) -> str:
    """What holds of all once, and else of each by its name."""
    told = {name: words(cost).rstrip(".") for name, cost in measured.items()}
    different = list(dict.fromkeys(told.values()))
    if len(different) == 1:
        return f"{different[0]}."
    return f"{'; '.join(f'{name}: {one}' for name, one in told.items())}."
