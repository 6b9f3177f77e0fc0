"""The sentences of a report that judge: who won, whether training was healthy. True whoever wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from umbel.evaluation.probe import PRETRAINED, UNTRAINED
from umbel.evaluation.probe_rows import ProbeRow
from umbel.evaluation.report_html import SPACE, listed
from umbel.evaluation.report_paired import BY_DRAWS, Paired

# Trained features of a small run have a rank of 20 and more and a cosine below 0.4, those of a collapsed one 2 and 1.
LEAST_RANK, MOST_COSINE = 3.0, 0.95
MUCH_WAITING = 0.1


def verdict(rows: Sequence[ProbeRow], paired: Paired = BY_DRAWS) -> str:
    """Who won the few-shot table and by how much; undecided where no difference of the best two can be told."""
    ranked = sorted(rows, key=lambda row: -row.mean)
    shots = f"{ranked[0].shots}-shot"
    if len(ranked) == 1:
        return f"The {ranked[0].name} reaches {reached(ranked[0])} in the {shots} table; nothing stands beside it."
    first, second = ranked[:2]
    lead = paired.lead(first, second)
    if not paired.apart(first, second):
        told = f"The {shots} table is undecided: the {first.name} reaches {reached(first)} and the {second.name} "
        told += f"{reached(second)}, {lead} apart, and {paired.doubt(first, second)}."
    else:
        told = f"The {first.name} wins the {shots} table: it names {reached(first)} of the query photographs "
        told += f"correctly, {lead} more than the {second.name} ({reached(second)})."
    return " ".join([told, *_place_of_pretraining(ranked, paired)])


def _place_of_pretraining(ranked: Sequence[ProbeRow], paired: Paired) -> list[str]:
    """Where the pretrained backbone stands if it is not among those named, and what pretraining itself gave."""
    by_name = {row.name: row for row in ranked}
    ours, fresh, best = by_name.get(PRETRAINED), by_name.get(UNTRAINED), ranked[0]
    told = []
    if ours is not None and ranked.index(ours) > 1:
        if paired.apart(best, ours):
            told.append(f"The {PRETRAINED} reaches only {reached(ours)}, {paired.lead(best, ours)} behind the best.")
        else:
            told.append(f"The {PRETRAINED} reaches {reached(ours)}; no difference from the best can be told.")
    if ours is not None and fresh is not None:
        if not paired.apart(ours, fresh):
            told.append(f"Whether pretraining helped at all is undecided: the {UNTRAINED} reaches {reached(fresh)}.")
        elif {ours.name, fresh.name} != {row.name for row in ranked[:2]}:
            verb, better, worse = ("adds", ours, fresh) if ours.mean > fresh.mean else ("takes away", fresh, ours)
            lead = paired.lead(better, worse)
            told.append(f"Pretraining itself {verb} {lead}: the {UNTRAINED} reaches {reached(fresh)}.")
    return told


def reached(row: ProbeRow) -> str:
    """Accuracy with its interval."""
    return f"{100 * row.mean:.1f}{SPACE}±{SPACE}{percent(row.interval)}"


def percent(share: float) -> str:
    """12.3 %."""
    return f"{100 * share:.1f}{SPACE}%"


def hashing_verdict(scores: Sequence[dict[str, Any]]) -> str:
    """The best codes beside the best float features."""
    codes = [score for score in scores if score["bits"] is not None]
    floats = [score for score in scores if score["bits"] is None]
    if not codes:
        return "The hashing table has no codes in it."
    best = max(codes, key=lambda score: float(score["map"]))
    told = f"Best among the codes: {best['name']}, {best['bits']} bits by {best['distance']} distance, "
    told += f"mAP {percent(best['map'])}"
    if floats:
        whole = max(floats, key=lambda score: float(score["map"]))
        told += f", against {percent(whole['map'])} of the {whole['name']}"
    return f"{told}."


def health(metrics: Sequence[dict[str, Any]], bad_photographs: int) -> str:
    """Whether steps or photographs were lost."""
    bad_steps = max(int(row.get("bad_steps") or 0) for row in metrics)
    lost = []
    if bad_steps:
        lost.append(f"{bad_steps:,} step{'s were' if bad_steps > 1 else ' was'} not finite and skipped")
    if bad_photographs:
        lost.append(f"{bad_photographs:,} photograph{'s' if bad_photographs > 1 else ''} could not be decoded")
    return f"In training, {listed(lost)}." if lost else "Every step was finite, and every photograph could be decoded."


def features_told(metrics: Sequence[dict[str, Any]], warmup_epochs: float) -> tuple[str, str]:
    """Whether the features collapsed, and, if they did, what to do; empty where the log has no measures of them."""
    row = next((row for row in reversed(metrics) if math.isfinite(row.get("effective_rank") or math.nan)), None)
    if row is None:
        return "", ""
    rank, most, cosine = row["effective_rank"], row.get("effective_rank_limit"), row.get("cosine")
    filled = f"{rank:.1f} directions of at most {most:.0f}" if most else f"{rank:.1f} directions"
    found = f"at step {row['step']:,}, the last that was measured, the teacher's class tokens fill {filled}"
    found += f", and different photographs have a mean cosine of {cosine:.2f}" if cosine is not None else ""
    if rank >= LEAST_RANK and (cosine is None or cosine <= MOST_COSINE):
        return f"The features are spread out: {found}.", ""
    if row["epoch"] > warmup_epochs:
        advice = "The backbone hardly tells photographs apart. What helps is to lower --optim.learning-rate or "
        return f"The features have collapsed: {found}.", f"{advice}--loss.coeff, or to raise --train.batch."
    advice = f"An untrained backbone begins like this; if it stays so after the warm-up ({warmup_epochs:g} epochs), "
    return f"All photographs still look nearly alike to the backbone: {found}.", f"{advice}something is wrong."


def probes_told(probes: Sequence[dict[str, Any]]) -> str:
    """The accuracy that was measured last while training went on, beside the first; "" without probes."""
    if not probes:
        return ""
    last = probes[-1]
    first = of_one_curve(probes)[0]
    told = f"While it was trained, the teacher reached {accuracy(last)} with {last['shots']} "
    told += f"shot{'s' if last['shots'] > 1 else ''} at step {last['step']:,}"
    if first is last:
        return f"{told}."
    begun = "before the first step" if first["step"] == 0 else f"at step {first['step']:,}"
    return f"{told}, after {accuracy(first)} {begun}."


def of_one_curve(probes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The probes of the same photographs and shots as the last: a run may have been continued with another probe."""
    alike = ("shots", "classes", "data")
    return [row for row in probes if all(row.get(name) == probes[-1].get(name) for name in alike)]


def accuracy(row: dict[str, Any]) -> str:
    """A probe's accuracy with its interval."""
    return f"{100 * row['accuracy']:.1f}{SPACE}±{SPACE}{percent(row['interval'])}"


def speed(metrics: Sequence[dict[str, Any]]) -> str:
    """How fast training was, and how much of its time went into waiting for data."""
    speeds = [row["images_per_second"] for row in metrics if row.get("images_per_second")]
    shares = [row["data_wait"] for row in metrics if row.get("data_wait") is not None]
    told = []
    if speeds:
        told.append(f"took {median(speeds):,.0f} images a second in the median")
    if shares:
        told.append(f"waited for data {percent(mean(shares))} of the time")
    if not told:
        return "How fast training was is not known."
    hint = " More --reader.workers or a faster disk would speed it up."
    return f"Training {' and '.join(told)}.{hint if shares and mean(shares) > MUCH_WAITING else ''}"


def duration(seconds: float) -> str:
    """1.4 s, 3 min 12 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
