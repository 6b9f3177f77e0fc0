"""The GPU suite's results as Markdown: a table for each kind of task, and what the policies' seeds allow to say."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

TITLES = {
    "checks": "Fast paths against plain ones",
    "throughput": "Step alone, on views that are made",
    "end-to-end": "`umbel pretrain`, data and views included",
    "profile": "Where a step's time goes",
    "views": "Views on the device",
    "policies": "Policies",
    "demo": "`umbel demo`",
}
# 97.5 % points of Student's t by degrees of freedom.
T_QUANTILES = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57}


def tables(tasks: dict[str, dict[str, Any]]) -> str:
    """All results, Markdown."""
    parts = ["# GPU suite"]
    for kind, title in TITLES.items():
        of_kind = {name: result for name, result in tasks.items() if name.split(".")[0] == kind}
        if not of_kind:
            continue
        parts += [f"## {title}", *origins(of_kind.values())]
        rows = [row for result in of_kind.values() for row in result.get("rows", ())]
        if rows:
            parts.append(table(rows))
        if kind == "policies":
            parts += policy_summary(rows)
        for name, result in of_kind.items():
            if result["state"] == "failed":
                last = (result["error"] or ["no output"])[-1]
                parts.append(f"**{name} failed** after {result['seconds']:.0f} s: `{last}`")
            elif result["state"] == "skipped":
                parts.append(f"{name} skipped: {result['reason']}")
    return "\n\n".join(parts) + "\n"


def origins(results: Iterable[dict[str, Any]]) -> list[str]:
    """Where results come from: a line for each machine and commit."""
    lines = []
    for found in (result["setting"] for result in results if "setting" in result):
        libraries = ", ".join(f"{name} {installed}" for name, installed in found["libraries"].items())
        tiny = ", tiny models" if found["tiny"] else ""
        lines.append(f"{found['device']}, umbel {found['commit']}, {libraries}, data: {found['data']}{tiny}")
    return list(dict.fromkeys(lines))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with all columns that any of them has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [["**NO**" if row.get(c) is False and c == "ok" else cell(row.get(c)) for c in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """A value for a reader."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value).replace("|", "/")


def policy_summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Mean and spread of each policy over its seeds, and every two compared seed by seed."""
    measures = ("5-shot %", "20-NN %")
    by_policy: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], {})[row["seed"]] = row
    summary = []
    for policy, seeds in by_policy.items():
        line: dict[str, Any] = {"policy": policy, "seeds": len(seeds)}
        for measure in measures:
            line[measure] = mean_and_spread([row[measure] for row in seeds.values()])
        summary.append(line)
    parts = [table(summary)] if summary else []
    for (a, of_a), (b, of_b) in itertools.combinations(by_policy.items(), 2):
        for measure in measures:
            both = sorted(of_a.keys() & of_b.keys())
            differences = [of_a[seed][measure] - of_b[seed][measure] for seed in both]
            parts.append(f"{measure[:-2]}, {a} less {b}: {difference_in_words(differences)}")
    return parts


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def difference_in_words(differences: Sequence[float]) -> str:
    """Of paired seeds: the mean with its 95 % interval, and whether that leaves 0 out."""
    n = len(differences)
    if n < 2:
        return f"{n} seed in common: nothing can be said."
    mean = statistics.mean(differences)
    half = T_QUANTILES[min(n - 1, max(T_QUANTILES))] * statistics.stdev(differences) / n**0.5
    verdict = "more than the noise of seeds" if abs(mean) > half else "inside the noise of seeds"
    return f"{mean:+.1f} ± {half:.1f} points (95 % interval, {n} paired seeds): {verdict}."
