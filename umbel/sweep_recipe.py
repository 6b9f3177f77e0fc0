"""The recipe of a sweep: of which command it is, and the values that it lists to go over."""

from __future__ import annotations

import contextlib
from typing import Any, Literal, get_args

from umbel import config as recipes
from umbel.run import UserError

Command = Literal["pretrain", "distill"]
COMMANDS: tuple[Command, ...] = get_args(Command)
OVER = "over"
"""Key of a recipe under which it lists keys and their values."""


def read_sweep_recipe(name: str) -> tuple[Command, dict[str, Any], dict[str, list[Any]]]:
    """The command, the settings, and the keys with their values to go over; none where the recipe lists none.

    Raises:
        UserError: no such recipe, or `over` is no mapping from keys to lists.
    """
    command, values = _read(name)
    over = values.pop(OVER, {})
    if not isinstance(over, dict) or not all(isinstance(listed, list) and listed for listed in over.values()):
        raise UserError(f"recipe {name}: over must be a mapping of keys to lists of values.")
    return command, values, over


def _read(name: str) -> tuple[Command, dict[str, Any]]:
    with contextlib.suppress(UserError):
        return "distill", recipes.read_recipe(name, "distill")
    return "pretrain", recipes.read_recipe(name, "pretrain")


def as_text(value: Any) -> str:
    """A value of a recipe as it would be given on a command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
