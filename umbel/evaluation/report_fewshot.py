"""Few-shot accuracy of a run: who is best and whether that can be told, over shots, and by groups of species."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umbel.evaluation.probe import PRETRAINED
from umbel.evaluation.probe_rows import ProbeRow
from umbel.evaluation.report_html import Markup, aside, best, join, table, tag
from umbel.evaluation.report_measures import by_group, nearest_told
from umbel.evaluation.report_paired import comparisons_of, paired_table
from umbel.evaluation.report_results import Features, features_of
from umbel.evaluation.report_shots import over_shots
from umbel.evaluation.report_words import percent, reached

OVER_DRAWS = (
    "“Best” is told by the paired differences over the draws alone: other query photographs might decide otherwise."
)
OVER_BOTH = "“Best” is told by the paired differences over draws and queries below."


def fewshot(rows: Sequence[ProbeRow], probed: Mapping[str, Any], classes: Sequence[str]) -> Markup:
    """Bars with intervals and the table, best first; then, where they were measured, differences, shots and groups.

    Args:
        probed: the whole of probe.json.
        classes: their names.
    """
    ranked = sorted(rows, key=lambda row: -row.mean)
    first = ranked[0]
    paired = comparisons_of(probed, first.shots)
    decided = len(ranked) > 1 and all(paired.apart(first, other) for other in ranked[1:])
    rows_of = {str(row["name"]): row for row in probed["rows"]}
    features = [features_of(row.name, row.name, [rows_of[row.name]]) for row in ranked]
    numbers = [
        (
            row.name,
            best(reached(row)) if decided and row is first else reached(row),
            nearest_told(of, "weighted", "knn"),
            nearest_told(of, "plain", "knn_plain"),
        )
        for row, of in zip(ranked, features, strict=True)
    ]
    head = ("Features", f"{first.shots}-shot accuracy", f"{first.k}-NN, weighted", f"{first.k}-NN, majority")
    caption = (
        f"Nearest centroid from {first.shots} photograph{'s' if first.shots > 1 else ''} of each class: mean of "
        f"{first.draws} draws with its 95 % interval, which tells how much the choice of the support matters, not how "
        "much another training seed would. "
    )
    caption += OVER_DRAWS if paired.told is None else OVER_BOTH
    chance = 1 / (len(classes) - len(first.left_out)) if len(classes) > len(first.left_out) else None
    if chance is not None:
        caption += f" Guessing among the classes reaches {percent(chance)}."
    parts = [_bars(ranked), table(head, numbers, name="Few-shot accuracies", caption=caption)]
    if first.left_out:
        names = [classes[label] if label < len(classes) else f"class {label}" for label in first.left_out]
        parts.append(aside(f"Left out, because they have too few photographs: {', '.join(names)}."))
    return join(*parts, paired_table(probed), *_more(features, chance))


def _more(features: Sequence[Features], chance: float | None) -> list[Markup]:
    """The curve over shots, where there are several, and accuracy by groups of species."""
    parts = []
    if len({shots for of in features for shots in of.curve}) > 1:
        parts += [tag("h3", "Over shots"), over_shots(features, chance)]
    return [*parts, by_group(features)]


def _bars(rows: Sequence[ProbeRow]) -> Markup:
    """A bar for each row with its interval as a whisker, from 0 to a round share."""
    end = next((share for share in (0.1, 0.25, 0.5) if rows[0].mean + rows[0].interval < share), 1.0)
    bars = []
    for row in rows:
        low, high = max(0.0, row.mean - row.interval) / end, min(end, row.mean + row.interval) / end
        fill = tag("span", class_="fill", style=f"width:{100 * row.mean / end:.2f}%")
        whisker = tag("span", class_="whisker", style=f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%")
        label = tag("div", tag("span", row.name), tag("span", reached(row)), class_="label")
        kind = "bar ours" if row.name == PRETRAINED else "bar"
        bars.append(tag("div", label, tag("div", fill, whisker, class_="track"), class_=kind))
    alt = f"Bars of {rows[0].shots}-shot accuracy. " + "; ".join(f"{row.name}: {reached(row)}" for row in rows)
    ticks = (tag("span", f"{100 * end * share:g} %") for share in (0, 0.5, 1))
    return tag("div", *bars, tag("div", *ticks, class_="scale"), class_="bars", role="img", aria_label=f"{alt}.")
