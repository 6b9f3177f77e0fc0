"""What a model card tells of where a backbone comes from: data and their terms, recipe, figures with intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from umbel.config import read_recipe
from umbel.run import UserError, read_json

NOT_STATED = "not stated"
MOST = 10
# Places of the machine that trained, which mean nothing elsewhere: their last part is told.
PLACES = ("data", "out", "init", "backbone", "soft")
TRAINING = ("pretrain", "finetune", "distill")


def data_lines(places: Sequence[str]) -> list[str]:
    """A line for each set of photographs: name, source, licenses and rights holders as its files tell them."""
    return [line for place in dict.fromkeys(places) for line in _set_lines(Path(place))]


def training_places(run: Path) -> list[str]:
    """DATA of a run, as its recipe names it; none where it is no run."""
    recipe = _recipe(run)
    mixed = recipe.get("mix") if isinstance(recipe.get("mix"), dict) else {}
    return [str(place) for place in (recipe.get("data"), *((mixed or {}).get("data") or ())) if place]


def recipe_text(run: Path) -> str:
    """The resolved recipe of a run as a block of YAML; "not stated" where there is none."""
    recipe = _recipe(run)
    if not recipe:
        return f"The recipe is {NOT_STATED}."
    return f"```yaml\n{yaml.safe_dump(_without_places(recipe), sort_keys=False, allow_unicode=True)}```"


def figure_lines(run: Path) -> list[str]:
    """A line for each row of the run's probe.json; a sentence where it has none."""
    file = run / "probe.json"
    told = read_json(file, "the probe's result") if file.is_file() else {}
    rows = told.get("rows")
    if not isinstance(rows, list):
        return ["No figures: the run has not been probed (`umbel probe RUN --out RUN/probe.json`)."]
    lines = []
    for row in rows:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            lines.append(
                f"- {row['name']}: {row['shots']}-shot nearest class mean {100 * row['mean']:.1f} % ± "
                f"{100 * row['interval']:.1f} (95 % interval over {row['draws']} draws), "
                f"{row['k']} nearest neighbors {100 * row['knn']:.1f} %"
            )
    return lines


def _recipe(run: Path) -> dict[str, Any]:
    for command in TRAINING:
        with contextlib.suppress(UserError):
            return read_recipe(str(run / "config.yaml"), command) if (run / "config.yaml").is_file() else {}
    return {}


def _without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe whose paths are cut down to their last part."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            kept[name] = _without_places(value)
        elif isinstance(value, str) and (name in PLACES or (name == "recipe" and Path(value).suffix)):
            kept[name] = Path(value).name
        elif name in PLACES and isinstance(value, list):
            kept[name] = [Path(str(one)).name for one in value]
        else:
            kept[name] = value
    return kept


def _set_lines(place: Path) -> list[str]:
    place = place.resolve()
    # A folder called shards tells nothing.
    name = place.parent.name or place.name if place.name == "shards" else place.name
    source = _told(place / "source.json").get("source", NOT_STATED)
    tally = _told(place / "licenses.json")
    licenses = tally.get("licenses") if isinstance(tally.get("licenses"), dict) else {}
    holders = tally.get("rights_holders") if isinstance(tally.get("rights_holders"), dict) else {}
    lines = [f"- {name}: source {source}; licenses {'as follows' if licenses else NOT_STATED}"]
    ranked = sorted((licenses or {}).items(), key=lambda pair: -int(pair[1]))
    lines += [f"  - {license}: {count:,} photographs" for license, count in ranked[:MOST]]
    if len(ranked) > MOST:
        lines.append(f"  - {len(ranked) - MOST} other licenses: {sum(c for _, c in ranked[MOST:]):,} photographs")
    if holders:
        lines.append(f"  - rights holders: {len(holders):,}, named in the shards")
    return lines


def _told(file: Path) -> dict[str, Any]:
    """A JSON file of a folder of shards; nothing where it is missing or damaged (the card then says: not stated)."""
    with contextlib.suppress(UserError):
        return read_json(file, "the file") if file.is_file() else {}
    return {}
