"""Texts that describe a class, made from its name and its place in the classification by templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COMMON = ("common_name", "common_names", "vernacular_name")
RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")
TEMPLATES = ("{}", "a photograph of {}", "{}, a plant")


def species_texts(name: str, record: Mapping[str, Any] | None = None) -> list[str]:
    """The name, the common names and the taxonomic name, each in every template.

    Args:
        name: of the class, as classes.txt has it.
        record: the metadata of one of its samples.

    Returns:
        At least the templates of the name; no text twice.
    """
    record = record or {}
    names = [" ".join(name.replace("_", " ").split())]
    for key in COMMON:
        told = record.get(key)
        names += [one for one in (told if isinstance(told, list) else [told]) if isinstance(one, str) and one.strip()]
    ranks = [record[rank] for rank in RANKS if isinstance(record.get(rank), str) and record[rank].strip()]
    if ranks:
        names.append(" ".join([*ranks, names[0]]))
    return list(dict.fromkeys(template.format(one) for one in names for template in TEMPLATES))


def texts_of_classes(classes: Sequence[str], records: Mapping[int, Mapping[str, Any]]) -> list[list[str]]:
    """The texts of every class, by label."""
    return [species_texts(name, records.get(label)) for label, name in enumerate(classes)]
