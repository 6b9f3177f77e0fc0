"""What changes of a photograph move a backbone's embedding, and how far: a picture, a table, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from umbel.evaluation.chart import chart_for_page
from umbel.evaluation.report_html import SPACE, Markup, aside, figure, join, table, tag
from umbel.evaluation.sensitivity_measure import Moved, Sensitivity
from umbel.evaluation.sensitivity_picture import WIDTH, by_operation, height, in_words, paint
from umbel.evaluation.sensitivity_words import CAUTION, sentences
from umbel.run import UserError

NONE = "Sensitivity to changes of the photograph was not measured (`umbel probe BACKBONE --sensitivity --out`)."
HEAD = ("Operation", "Strengths, mild to strong", "Farthest movement", "Nearest species changes", "Accuracy left")


def sensitivity_section(told: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A part for each backbone.

    Args:
        told: name of the features -> probe.json of them.

    Raises:
        UserError: a sensitivity that cannot be read.
    """
    measured = {name: _read(name, one["sensitivity"]) for name, one in told.items() if one.get("sensitivity")}
    if not measured:
        return aside(NONE)
    parts = []
    for name, found in measured.items():
        if len(told) > 1:
            parts.append(tag("h3", name))
        parts += [tag("p", sentence) for sentence in sentences(found) if sentence != CAUTION]
        parts += [_picture(name, found), _table(name, found)]
    # A reader who sees only numbers takes the farthest for the worst.
    return join(tag("p", f"Movement does not prove harm. {CAUTION}"), *parts)


def _read(name: str, told: Mapping[str, Any]) -> Sensitivity:
    try:
        moved = tuple(Moved(**one) for one in told["moved"])
        names = ("photographs", "species", "between_species", "accuracy", "chance")
        return Sensitivity(moved=moved, **{key: told[key] for key in names})
    except (KeyError, TypeError) as error:
        raise UserError(f"the sensitivity of the {name} cannot be read ({error}): measure it again.") from error


def _picture(name: str, found: Sensitivity) -> Markup:
    # Names inside the picture go by its words, and two backbones may move alike.
    drawn = chart_for_page(paint(found), f"{name}. {in_words(found)}", width=WIDTH, height=height(found))
    box = {"class_": "scroll", "tabindex": "0", "role": "region", "aria_label": f"Sensitivity of the {name}"}
    caption = "How far each operation moves an embedding, by its strength; 1 is as far as another species."
    return figure(tag("div", drawn, **box), caption, class_="chart")


def _table(name: str, found: Sensitivity) -> Markup:
    rows = []
    for group in by_operation(found.moved):
        far = max(group, key=lambda one: one.movement)
        low, high = far.movement_interval
        strengths = f"{group[0].unit} {' '.join(one.label for one in group)}".strip()
        rows.append(
            (
                far.operation,
                strengths or "–",
                f"{far.movement:.2f} ({low:.2f} to {high:.2f})",
                f"{100 * far.changed:.0f}{SPACE}%",
                f"{100 * far.accuracy:.0f}{SPACE}%",
            )
        )
    caption = (
        "The operation that moves farthest first, each at the strength where it moves farthest, with the 95 % interval "
        f"over photographs. Unchanged, the nearest centroid names {100 * found.accuracy:.0f}{SPACE}% rightly."
    )
    return table(HEAD, rows, name=f"Sensitivity of the {name} in numbers", caption=caption)
