"""The sentences at the head of a comparison: what is better than what, and where no difference can be told."""

from __future__ import annotations

from collections.abc import Sequence

from umbel.evaluation.report_differences import points
from umbel.evaluation.report_html import listed
from umbel.evaluation.report_paired import excludes_zero, paired
from umbel.evaluation.report_results import Features
from umbel.evaluation.report_shots import with_interval


def compared_in_words(ranked: Sequence[Features], shots: int) -> list[str]:
    """Who is best with how many shots, and whether each trained backbone beats all that was not trained.

    Args:
        ranked: best first.
    """
    first = ranked[0]
    best = f"with {shots} shot{'s' if shots > 1 else ''}: {first.name}, {with_interval(first.curve[shots])}"
    if len(ranked) == 1:
        return [f"Reached {best}; nothing stands beside it."]
    equals = [of.name for of in ranked[1:] if not _better(first, of, shots)]
    if equals:
        told = [f"Highest {best}, but no difference can be told from {listed(equals)}."]
    else:
        lead = points(paired(first, ranked[1], shots))
        told = [f"Best {best}, {lead} percentage points over {ranked[1].name}, the next."]
    untrained = [of for of in ranked if not of.pretrained]
    for ours in (of for of in ranked if of.pretrained and untrained):
        beaten = [of.name for of in untrained if _better(ours, of, shots)]
        ahead = [of.name for of in untrained if _better(of, ours, shots)]
        even = [of.name for of in untrained if of.name not in (*beaten, *ahead)]
        verdicts = (("better than", beaten), ("worse than", ahead), ("no difference can be told from", even))
        told.append(f"{ours.name}: {'; '.join(f'{verdict} {listed(names)}' for verdict, names in verdicts if names)}.")
    return told


def _better(a: Features, b: Features, shots: int) -> bool:
    lead = paired(a, b, shots)
    return lead is not None and lead[0] > 0 and excludes_zero(lead)
