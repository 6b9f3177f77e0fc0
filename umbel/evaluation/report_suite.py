"""What backbones reach on the sets of a suite, beside the figures that others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from umbel.evaluation.report_html import SPACE, Markup, aside, join, listed, table, tag
from umbel.evaluation.report_page import page
from umbel.run import UserError, read_json

SAME = ("suite", "shots", "folds", "published")
OF_SET = {"name", "accuracies", "accuracy", "deviation", "photographs", "classes"}


def is_suite(told: Mapping[str, Any]) -> bool:
    """Whether a result of `umbel probe` is one of a suite, which has sets and no rows."""
    return isinstance(told.get("sets"), list) and "rows" not in told


def read_suites(given: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    """Name -> result, where all that is given, as PATH or NAME=PATH, are results of one suite; None: no suite is there.

    Raises:
        UserError: suites and other results, different suites, two of the same name, or a damaged result.
    """
    found: dict[str, dict[str, Any]] = {}
    others = []
    for one in given:
        name, separator, path = one.rpartition("=")
        # A folder may have the sign in its name.
        if not separator or Path(one).exists():
            name, path = "", one
        file = Path(path) / "probe.json" if Path(path).is_dir() else Path(path)
        told = read_json(file, "the probe's result") if file.is_file() else {}
        if not is_suite(told):
            others.append(one)
            continue
        own = name or (Path(path).name if Path(path).is_dir() or file.stem != "probe" else "")
        own = own.removesuffix(".json") or file.resolve().parent.name
        if own in found:
            raise UserError(f"two results are called {own}: name them, as in before={path}.")
        check_suite(told, file)
        found[own] = told
    if found and others:
        raise UserError(f"{others[0]} is no result of a suite, and cannot stand beside {next(iter(found))}, which is.")
    results = list(found.values())
    for told in results[1:]:
        for key in SAME:
            if told[key] != results[0][key]:
                raise UserError(f"these results are of different suites or protocols: they differ in {key}.")
    return found or None


def check_suite(told: Mapping[str, Any], file: Path) -> None:
    """Refuse a damaged result.

    Raises:
        UserError: it lacks something.
    """
    sets = told["sets"]
    good = sets and all(isinstance(one, dict) and set(one) >= OF_SET for one in sets)
    if not good or not {*SAME, "backbone"} <= set(told):
        raise UserError(f"{file} is no whole result of `umbel probe --suite`: measure it again.")


def suite_page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of one suite."""
    first = next(iter(results.values()))
    sets = _sets(results)
    told = f"{len(sets)} sets of photographs, {first['shots']} shots, {first['folds']} folds."
    sections = {
        "Summary": join(*(tag("p", sentence) for sentence in suite_in_words(results))),
        "Accuracy": suite_table(results),
        "Provenance": _provenance(results),
    }
    return page(f"{listed(list(results))} on the suite {first['suite']}", told, sections)


def suite_in_words(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where the published figures lie to ours, set by set."""
    told = []
    for name, result in results.items():
        places: dict[str, list[str]] = {"above": [], "below": [], "between or within the deviations of": []}
        for one in result["sets"]:
            figures = [rows[one["name"]] for rows in result["published"].values() if one["name"] in rows]
            ours, ours_half = 100 * one["accuracy"]["value"], 100 * one["deviation"]
            if not figures:
                continue
            if all(ours - ours_half > mean + half for mean, half in figures):
                places["above"].append(one["name"])
            elif all(ours + ours_half < mean - half for mean, half in figures):
                places["below"].append(one["name"])
            else:
                places["between or within the deviations of"].append(one["name"])
        parts = [f"{where} the published figures on {listed(names)}" for where, names in places.items() if names]
        if parts:
            told.append(f"{name} lies {'; '.join(parts)}.")
    told.append(
        "The published figures are of one training and of other folds: that the deviations do not meet is a hint, not "
        "a test."
    )
    return told


def suite_table(results: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A row for each result and each published backbone, a column for each set."""
    first, sets = next(iter(results.values())), _sets(results)
    rows = []
    for name, result in results.items():
        ours = {one["name"]: one for one in result["sets"]}
        rows.append((name, *(_ours(ours[one]) if one in ours else "–" for one in sets)))
    for model, figures in first["published"].items():
        rows.append((f"{model}, published", *(_cell(*figures[one]) if one in figures else "–" for one in sets)))
    sizes = {one["name"]: one for result in results.values() for one in result["sets"]}
    counts = "; ".join(f"{name}: {sizes[name]['photographs']:,} of {sizes[name]['classes']:,} classes" for name in sets)
    caption = (
        f"{first['shots']}-shot micro accuracy in percent: mean ± population deviation over {first['folds']} folds, as "
        f"published; in brackets the 95 % interval of our mean over folds. Photographs: {counts}."
    )
    absent = dict.fromkeys(str(one) for result in results.values() for one in result.get("absent") or ())
    made = table(("Features", *sets), rows, name=f"Suite {first['suite']}", caption=caption)
    return join(made, *(aside(one) for one in absent))


def _sets(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(one["name"]) for result in results.values() for one in result["sets"]))


def _ours(one: Mapping[str, Any]) -> str:
    low, high = (100 * one["accuracy"][end] for end in ("low", "high"))
    return f"{_cell(100 * one['accuracy']['value'], 100 * one['deviation'])} ({low:.1f} to {high:.1f})"


def _cell(mean: float, deviation: float) -> str:
    return f"{mean:.1f}{SPACE}±{SPACE}{deviation:.1f}"


def _provenance(results: Mapping[str, Mapping[str, Any]]) -> Markup:
    lines = [tag("div", tag("dt", name), tag("dd", str(result["backbone"]))) for name, result in results.items()]
    return tag("dl", *lines, class_="facts")
