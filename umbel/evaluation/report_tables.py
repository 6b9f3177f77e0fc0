"""The tables of a report: few-shot accuracies, retrieval by codes, what steps cost, where everything comes from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from umbel.evaluation.hashing import Codes
from umbel.evaluation.probe import PRETRAINED
from umbel.evaluation.probe_rows import ProbeRow
from umbel.evaluation.report_html import Markup, aside, best, join, table, tag
from umbel.evaluation.report_run import RunRecord
from umbel.evaluation.report_words import apart, duration, hashing_verdict, percent, reached

METHODS = {"crovca": "CroVCA", "itq": "ITQ", "pca": "PCA signs", "pca-rotation": "rotated PCA", "lsh": "LSH"}


def fewshot(rows: Sequence[ProbeRow], classes: Sequence[str]) -> Markup:
    """Bars with intervals, then the table, best first."""
    ranked = sorted(rows, key=lambda row: -row.mean)
    first = ranked[0]
    decided = len(ranked) > 1 and all(apart(first, other) for other in ranked[1:])
    numbers = [
        (
            row.name,
            best(reached(row)) if decided and row is first else reached(row),
            *map(percent, (row.knn, row.knn_plain)),
        )
        for row in ranked
    ]
    head = ("Features", f"{first.shots}-shot accuracy", f"{first.k}-NN, weighted", f"{first.k}-NN, majority")
    caption = (
        f"Nearest centroid from {first.shots} photographs of each class: mean of {first.draws} draws with its 95 % "
        "interval, which tells how much the choice of the support matters, not how much another training seed would."
    )
    if len(classes) > len(first.left_out):
        caption += f" Guessing among the classes reaches {percent(1 / (len(classes) - len(first.left_out)))}."
    parts = [_bars(ranked), table(head, numbers, name="Few-shot accuracies", caption=caption)]
    if first.left_out:
        names = [classes[label] if label < len(classes) else f"class {label}" for label in first.left_out]
        parts.append(aside(f"Left out, because they have too few photographs: {', '.join(names)}."))
    return join(*parts)


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


def hashing(told: dict[str, Any], codes: Codes | None) -> Markup:
    """Mean average precision of codes beside that of the float features."""
    scores = [score | {"name": score_name(str(score["name"]), codes)} for score in told["scores"]]
    rows = []
    for score in scores:
        health = score.get("health") or {}
        told_health = [f"{health[name]:.3f}" if name in health else "–" for name in ("imbalance", "correlation")]
        told_health.append(str(health.get("constant", "–")))
        bits = "–" if score["bits"] is None else str(score["bits"])
        rows.append((score["name"], bits, score["distance"], percent(score["map"]), *told_health))
    head = ("Features", "Bits", "Distance", "mAP", "Imbalance", "Correlation", "Constant bits")
    return join(
        tag("p", hashing_verdict(scores)),
        table(head, rows, name="Retrieval", caption=f"{told.get('convention', 'mAP')}."),
    )


def score_name(name: str, codes: Codes | None) -> str:
    """A row's name for readers: the method rather than the folder that its codes lie in."""
    if name.endswith(" beside"):
        method = name.removesuffix(" beside")
        return f"{METHODS.get(method, method)}, for comparison"
    coder = codes.provenance.get("coder") if codes is not None else None
    if isinstance(coder, dict) and name.rstrip("/").endswith("codes"):
        return METHODS.get(str(coder.get("method")), name)
    return name


def costs(steps: Sequence[dict[str, Any]]) -> Markup:
    """Time and memory of each step, and all of them."""
    rows = []
    for step in steps:
        peak = step.get("peak_memory_gib")
        rows.append((str(step["name"]), duration(step["seconds"]), "–" if peak is None else f"{peak:.2f} GiB"))
    rows.append(("all steps", duration(sum(step["seconds"] for step in steps)), ""))
    caption = "What each step took on the machine of the run, and the most memory that it held."
    head = ("Step", "Time", "Peak memory")
    # The order of the steps tells more than any other.
    return table(head, rows, name="Cost of each step", caption=caption, total=True, sorts=False)


def provenance(run: RunRecord, *, weights: str | None, checkpoint: str | None, pictures: str) -> Markup:
    """Where everything comes from, and the recipe folded away."""
    config, starts = run.config, run.record.get("starts", [])
    last: dict[str, Any] = starts[-1] if starts else {}
    libraries = last.get("libraries", {})
    train = config.get("train", {})
    facts = {
        "Data": str(config.get("data")),
        "Data fingerprint": str(run.record.get("lasting", {}).get("data", "unknown")),
        "Pictures from": pictures,
        "Started from": str(config.get("init") or "random weights"),
        "Checkpoint": checkpoint or "none yet",
        "Weights (SHA-256)": weights or "unknown",
        "Recipe": str(config.get("recipe")),
        "Seed": str(config.get("seed")),
        "Device and precision": f"{config.get('device')}, {train.get('precision')}",
        "Umbel": f"{last.get('umbel', 'unknown')} on Python {last.get('python', 'unknown')}",
        "Libraries": ", ".join(f"{name} {number}" for name, number in libraries.items()) or "unknown",
        "System": str(last.get("system", "unknown")),
    }
    if run.embeddings is not None:
        speed = run.embeddings.provenance.get("images_per_second", "unknown")
        count, width = run.embeddings.features.shape
        facts["Embeddings"] = f"{count:,} photographs, width {width}, {speed} images/s"
    terms = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    commands = [
        tag("li", f"{start['time']}, from step {start['from_step']:,}: ", tag("code", shlex.join(start["command"])))
        for start in starts
    ]
    recipe = tag("pre", tag("code", (run.path / "config.yaml").read_text()), tabindex="0")
    return join(
        tag("dl", *terms, class_="facts"),
        tag("h3", "Commands"),
        tag("ol", *commands),
        tag("details", tag("summary", "The whole recipe, as it was resolved"), recipe),
    )
