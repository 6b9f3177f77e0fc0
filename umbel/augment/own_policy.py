"""A policy of a user's own, as a list in a recipe: operations by Kornia's name, with probability and ranges.

policy:
  - {name: ColorJitter, p: 0.8, brightness: 0.4, hue: [-0.05, 0.05]}
  - {name: RandomGaussianBlur, p: {first global: 1.0, local: 0.5}, sigma: [0.1, 2.0]}
"""

from __future__ import annotations

import dataclasses
from typing import Any

from umbel.augment.geometric import Affine, Erasing, HorizontalFlip, Rotation, VerticalFlip
from umbel.augment.jitter import ColorJitter
from umbel.augment.operation import ByView, Operation
from umbel.augment.photometric import Equalize, GaussianBlur, Grayscale, Posterize, Sharpness, Solarize
from umbel.augment.policy import POLICIES, Operations
from umbel.config import from_values, nearest
from umbel.run import UserError

Policy = str | tuple[dict[str, Any], ...]
OPERATIONS: dict[str, type[Operation]] = {
    "ColorJitter": ColorJitter,
    "RandomPosterize": Posterize,
    "RandomGrayscale": Grayscale,
    "RandomGaussianBlur": GaussianBlur,
    "RandomSolarize": Solarize,
    "RandomSharpness": Sharpness,
    "RandomEqualize": Equalize,
    "RandomAffine": Affine,
    "RandomRotation": Rotation,
    "RandomHorizontalFlip": HorizontalFlip,
    "RandomVerticalFlip": VerticalFlip,
    "RandomErasing": Erasing,
}
VIEWS = {
    "first global": ("first_global",),
    "second global": ("second_global",),
    "global": ("first_global", "second_global"),
    "local": ("local",),
}


def operations_of(policy: Policy) -> Operations:
    """The operations of a policy's name or of a list.

    Raises:
        ValueError: no policy of this name, or an entry that is none; says which and names the nearest known word.
    """
    if not isinstance(policy, str):
        return tuple(_read(entry, f"operation {number}") for number, entry in enumerate(policy, 1))
    if policy not in POLICIES:
        known = ", ".join(POLICIES)
        raise ValueError(f"must be one of {known}, or a list in a recipe, not '{policy}'{nearest(policy, POLICIES)}")
    return POLICIES[policy]


def policy_name(policy: Policy) -> str:
    """A policy in words: its name, or the operations of a list."""
    return policy if isinstance(policy, str) else ", ".join(str(entry["name"]) for entry in policy) or "none"


def _read(entry: dict[str, Any], where: str) -> Operation:
    """One entry of a list; raises ValueError."""
    if "name" not in entry:
        raise ValueError(f"{where} has no name; there are: {', '.join(OPERATIONS)}")
    name = str(entry["name"])
    if name not in OPERATIONS:
        told = f"cannot stand in a policy{nearest(name, OPERATIONS)}; there are: {', '.join(OPERATIONS)}"
        raise ValueError(f"{where}: '{name}' {told}")
    kind, where = OPERATIONS[name], f"{where} ({name})"
    known = [field.name for field in dataclasses.fields(kind)]
    for key in entry:
        if key not in ("name", *known):
            raise ValueError(f"{where}: unknown parameter '{key}'{nearest(key, known)}; there are: {', '.join(known)}")
    if "p" not in entry:
        raise ValueError(f"{where} has no p, its probability")
    given = {key: value for key, value in entry.items() if key not in ("name", "p")}
    try:
        operation = from_values(kind(), given, where)
        return dataclasses.replace(operation, p=_probability(entry["p"]))
    except UserError as error:
        # The field of the configuration that the list stands in is named above us.
        raise ValueError(str(error).removesuffix(".")) from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _probability(given: Any) -> float | ByView:
    """A number, or numbers by kind of view; kinds that are not named have 0."""
    if not isinstance(given, dict):
        return _number(given)
    found: dict[str, float] = {}
    for key, value in given.items():
        if key not in VIEWS:
            raise ValueError(f"p: unknown kind of view '{key}'{nearest(key, VIEWS)}; there are: {', '.join(VIEWS)}")
        for field in VIEWS[key]:
            if field in found:
                raise ValueError(f"p is given twice for the {field.replace('_', ' ')} view")
            found[field] = _number(value)
    return ByView(**found)


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise ValueError(f"p must be a number, or numbers by kind of view ({', '.join(VIEWS)}), not {given!r}")
    return float(given)
