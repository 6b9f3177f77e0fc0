"""The tables of a report: retrieval by codes, what steps cost, where everything comes from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from umbel.evaluation.hashing import Codes
from umbel.evaluation.report_html import Markup, join, table, tag
from umbel.evaluation.report_run import RunRecord
from umbel.evaluation.report_words import duration, hashing_verdict, percent

METHODS = {"crovca": "CroVCA", "itq": "ITQ", "pca": "PCA signs", "pca-rotation": "rotated PCA", "lsh": "LSH"}


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
