"""What features reach by each of their probes, with intervals, and of groups of species where that was told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from umbel.evaluation.report_html import Markup, best, join, table, tag
from umbel.evaluation.report_paired import excludes_zero, paired
from umbel.evaluation.report_results import Features, ends
from umbel.evaluation.report_shots import with_interval
from umbel.evaluation.report_words import percent

# Result of a probe in a row of probe.json -> its name for readers.
PROBES = {"logistic": "Logistic regression", "linear": "Linear classifier"}
GROUPINGS = {"frequency": "How frequent the species is", "organ": "Organ that the photograph shows"}


def measures(ranked: Sequence[Features], shots: int) -> Markup:
    """The table of all features, best first; a best number is marked only where its lead over each other is certain.

    Args:
        ranked: best first by the accuracy with `shots`.
    """
    probes = {key: name for key, name in PROBES.items() if any(isinstance(of.row.get(key), dict) for of in ranked)}
    k = ranked[0].row["k"]
    head = ("Features", f"{shots}-shot centroid", f"{k}-NN, weighted", f"{k}-NN, majority", *probes.values())
    leading = is_best(ranked, shots)
    rows = []
    for of in ranked:
        first = with_interval(of.curve[shots])
        rows.append(
            (
                of.name,
                best(first) if leading and of is ranked[0] else first,
                nearest_told(of, "weighted", "knn"),
                nearest_told(of, "plain", "knn_plain"),
                *(_reached(of.row.get(key)) for key in probes),
            )
        )
    caption = (
        f"The {shots}-shot interval is the 95 % interval of the mean over {ranked[0].row['draws']} draws: how much the "
        "choice of the support matters, not how much another training seed or other photographs would. "
    )
    caption += "“Best” is marked where the paired interval of the difference to each other leaves out 0. "
    caption += "A number without an interval is one count over all queries."
    return table(head, rows, name="Accuracies", caption=caption)


def is_best(ranked: Sequence[Features], shots: int) -> bool:
    """Whether the first is better than each other by more than chance."""
    leads = [paired(ranked[0], of, shots) for of in ranked[1:]]
    return bool(leads) and all(one is not None and excludes_zero(one) and one[0] > 0 for one in leads)


def nearest_told(of: Features, kind: str, plain: str) -> str:
    """k-NN accuracy, with its interval where the row has one.

    Args:
        kind: "weighted" or "plain".
        plain: where the row has the number alone.
    """
    told = (of.row.get("nearest") or {}).get(kind)
    return _reached(told) if isinstance(told, dict) else percent(float(of.row[plain]))


def _reached(told: Any) -> str:
    estimate = told.get("micro") if isinstance(told, dict) else None
    return with_interval(ends(estimate)) if isinstance(estimate, dict) else "–"


def by_group(ranked: Sequence[Features]) -> Markup:
    """Accuracy by frequency, by organ and at higher levels, of each probe that tells it; nothing where none does."""
    parts = []
    for grouping, title in GROUPINGS.items():
        found = [(of.name, name, groups) for of in ranked for name, groups in _groups(of, grouping)]
        if not found:
            continue
        names = list(dict.fromkeys(str(group["name"]) for _, _, groups in found for group in groups))
        rows = []
        for features, probe, groups in found:
            cells = {str(group["name"]): with_interval(ends(group["accuracy"])) for group in groups}
            rows.append((features, probe, *(cells.get(name, "–") for name in names)))
        counts = {str(group["name"]): f"{group['count']:,}" for _, _, groups in found[:1] for group in groups}
        told = ", ".join(f"{name}: {count} queries" for name, count in counts.items())
        parts.append(tag("h3", title))
        parts.append(table(("Features", "Probe", *names), rows, name=title, caption=f"With 95 % intervals. {told}."))
    parts += _by_level(ranked)
    return join(*parts)


def _by_level(ranked: Sequence[Features]) -> list[Markup]:
    """Accuracy at genus and family, where a name of the same genus or family counts as right."""
    found = [(of.name, name, levels) for of in ranked for name, levels in _groups(of, "taxonomy")]
    named = dict.fromkeys(str(level) for _, _, told in found for level in told.get("levels") or ())
    if not named:
        return []
    rows = []
    for features, probe, told in found:
        cells = (with_interval(ends(told[level])) if isinstance(told.get(level), dict) else "–" for level in named)
        rows.append((features, probe, *cells))
    title, caption = "At higher levels", "Share of queries whose genus, family and so on are named rightly."
    return [tag("h3", title), table(("Features", "Probe", *named), rows, name=title, caption=caption)]


def _groups(of: Features, grouping: str) -> list[tuple[str, Any]]:
    nearest = (of.row.get("nearest") or {}).get("weighted")
    probes = {"k-NN, weighted": nearest} | {name: of.row.get(key) for key, name in PROBES.items()}
    return [(name, told[grouping]) for name, told in probes.items() if isinstance(told, dict) and told.get(grouping)]
