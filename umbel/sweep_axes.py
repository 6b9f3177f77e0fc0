"""What a sweep goes over: keys of a recipe, each with its values, from the recipe itself and from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from umbel.run import UserError
from umbel.sweep_recipe import as_text, read_sweep_recipe

OWN = {"data", "out", "recipe", "device", "force"}
"""What the sweep says itself."""


def read_axes(recipe: str, over: Sequence[str]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Each key with its values, as text and as YAML reads it: the recipe's, then those of --over, which replace them.

    Raises:
        UserError: a key that is the sweep's own, or no key with values.
    """
    asked = [_axis(text) for text in over]
    given = {key for key, _ in asked}
    listed = [
        (_key(key), [(as_text(value), value) for value in values])
        for key, values in read_sweep_recipe(recipe)[2].items()
    ]
    return [(key, values) for key, values in listed if key not in given] + asked


def _axis(text: str) -> tuple[str, list[tuple[str, Any]]]:
    """A key and its values, each as text and as YAML reads it."""
    key, equals, listed = text.partition("=")
    key = key.strip().replace("-", "_")
    # A comma inside of brackets belongs to a value that is a list.
    texts = [part.strip() for part in re.split(r",(?![^\[]*\])", listed)]
    if not equals or not key or not all(texts):
        raise UserError(f"--over {text}: say KEY=a,b,c, such as optim.learning_rate=1e-4,3e-4.")
    try:
        return _key(key), [(part, yaml.safe_load(part)) for part in texts]
    except yaml.YAMLError as error:
        raise UserError(f"--over {text}: the values are none that a recipe could have.") from error


def _key(key: str) -> str:
    if key in OWN:
        raise UserError(f"--over {key}: that is for the sweep to say, not for its runs to differ in.")
    return key
