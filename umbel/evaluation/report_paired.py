"""Whether a difference of two rows of a probe can be told: by its own paired comparisons, or by the draws alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from umbel.evaluation.fewshot import interval
from umbel.evaluation.probe_rows import ProbeRow
from umbel.evaluation.report_html import SPACE, Markup, table
from umbel.evaluation.report_results import Ends, Features, ends

MINUS = "\N{MINUS SIGN}"
UNTOLD = "no difference can be told"


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What is known of the differences of few-shot accuracies."""

    told: Mapping[tuple[str, str], Ends] | None
    """(first, second) -> first minus second, over draws and queries both; None: the result has no comparisons, and the
    interval is over draws alone."""

    def between(self, a: ProbeRow, b: ProbeRow) -> Ends | None:
        """The difference a - b; None where the two were not compared."""
        if self.told is None:
            paired = difference(a.accuracies, b.accuracies)
            return None if paired is None else (paired[0], paired[0] - paired[1], paired[0] + paired[1])
        if found := self.told.get((a.name, b.name)):
            return found
        turned = self.told.get((b.name, a.name))
        return None if turned is None else (-turned[0], -turned[2], -turned[1])

    def apart(self, a: ProbeRow, b: ProbeRow) -> bool:
        """Whether a difference can be told: the 95 % interval of the paired differences leaves out 0.

        Of rows that were not measured on the same draws: whether their own intervals have no common value.
        """
        found = self.between(a, b)
        if found is None:
            return self.told is None and abs(a.mean - b.mean) > a.interval + b.interval
        return leaves_out_zero(found)

    def doubt(self, a: ProbeRow, b: ProbeRow) -> str:
        """Why two rows that are not apart are not."""
        unknown = self.told is not None and self.between(a, b) is None
        return f"{UNTOLD}, as the two were not compared by their answers" if unknown else UNTOLD

    def lead(self, better: ProbeRow, worse: ProbeRow) -> str:
        """The difference of two means with its interval, where it has one."""
        found = self.between(better, worse)
        text = f"{100 * (better.mean - worse.mean):.1f}" if found is None else points(found, signed=False)
        return f"{text} percentage points"


BY_DRAWS = Paired(told=None)


def comparisons_of(probed: Mapping[str, Any], shots: int) -> Paired:
    """The few-shot comparisons of probe.json; older ones have none."""
    if not isinstance(probed.get("comparisons"), list):
        return BY_DRAWS
    return Paired(told=_of_measure(probed["comparisons"], f"{shots}-shot accuracy"))


def _of_measure(comparisons: Sequence[Mapping[str, Any]], measure: str) -> dict[tuple[str, str], Ends]:
    return {(one["first"], one["second"]): ends(one["difference"]) for one in comparisons if one["measure"] == measure}


def paired_table(probed: Mapping[str, Any]) -> Markup:
    """A line for each comparison of probe.json; nothing where it has none."""
    comparisons: Sequence[Mapping[str, Any]] = probed.get("comparisons") or ()
    if not comparisons:
        return Markup()
    measures = list(dict.fromkeys(str(one["measure"]) for one in comparisons))
    cells = {measure: _of_measure(comparisons, measure) for measure in measures}
    pairs = list(dict.fromkeys((str(one["first"]), str(one["second"])) for one in comparisons))
    several = len({first for first, _ in pairs}) > 1
    rows = []
    for first, second in pairs:
        found = [cells[measure].get((first, second)) for measure in measures]
        rows.append(
            (
                f"{first} minus {second}" if several else second,
                *("–" if one is None else in_words(one) for one in found),
            )
        )
    caption = (
        "Paired differences in percentage points with 95 % intervals by resampling draws and queries both, so that the "
        f"choice of the query photographs counts too. Where the interval holds 0, {UNTOLD}."
    )
    head = "Difference" if several else f"{pairs[0][0].capitalize()} minus"
    return table((head, *measures), rows, name="Paired differences", caption=caption, sorts=False)


def in_words(found: Ends) -> str:
    """+3.2 (+1.0 to +5.4), better."""
    verdict = UNTOLD if not leaves_out_zero(found) else "better" if found[1] > 0 else "worse"
    return f"{points(found)}: {verdict}"


def points(found: Ends, *, signed: bool = True) -> str:
    """A difference in percentage points: 3.2 ± 0.8, or with both ends where they are not equally far."""
    value, low, high = (100 * end for end in found)
    text = _number(value, signed)
    if abs((high - value) - (value - low)) < 0.1:
        return f"{text}{SPACE}±{SPACE}{(high - low) / 2:.1f}"
    return f"{text} ({_number(low, signed)} to {_number(high, signed)})"


def _number(value: float, signed: bool) -> str:
    sign = MINUS if value < -0.05 else "+" if signed else ""
    return f"{sign}{abs(value):.1f}"


def leaves_out_zero(found: Ends) -> bool:
    """Whether 0 lies outside of an interval."""
    return found[1] > 0 or found[2] < 0


def difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """Mean of the paired differences a - b over draws, and half its 95 % interval; None where nothing is paired."""
    if len(a) != len(b) or len(a) < 2:
        return None
    return interval([one - other for one, other in zip(a, b, strict=True)])


def excludes_zero(paired: tuple[float, float]) -> bool:
    """Whether 0 lies outside a mean plus and minus half its interval."""
    return abs(paired[0]) > paired[1]


def paired(first: Features, second: Features, shots: int) -> tuple[float, float] | None:
    """first - second and half its 95 % interval; None where nothing is paired.

    As their result itself tells it, where they are of the same one: that interval counts the choice of the queries too.
    Otherwise over the draws of the support alone.
    """
    told = first.comparisons.get((str(second.row["name"]), shots)) if first.source == second.source else None
    if told is None:
        return difference(first.accuracies[shots], second.accuracies[shots])
    value, low, high = told
    # The wider side, so that an interval that holds 0 goes on holding it.
    return value, max(high - value, value - low)
