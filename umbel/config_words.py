"""A configuration as the words of a command line that reads as it: the other way round of `umbel.config.parse`."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import tyro

from umbel.run import UserError


def as_words(config: Any, like: Any) -> list[str]:
    """The positional words and flags that make `config`, where none at all would make `like`.

    Args:
        like: a configuration of the same kind; what has no default is written whatever it says.

    Raises:
        UserError: a value that no flag can hold (a list of operations, a mapping).
    """
    positional, flags = _words(config, like, "")
    return positional + flags


def _words(config: Any, like: Any, prefix: str) -> tuple[list[str], list[str]]:
    positional: list[str] = []
    flags: list[str] = []
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(like, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            flags += _words(value, usual, f"{name}.")[1]
        elif tyro.conf.Positional in getattr(hints[field.name], "__metadata__", ()):
            positional += [_word(one, name) for one in (value if isinstance(value, tuple) else (value,))]
        elif value != usual or (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING):
            flags += _flag(name, value)
    return positional, flags


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        room, _, last = flag.rpartition(".")
        return [f"--{flag}"] if value else [f"--{room}.no-{last}" if room else f"--no-{last}"]
    if isinstance(value, tuple):
        return [f"--{flag}", *(_word(one, name) for one in value)]
    word = _word(value, name)
    # A word that begins with a dash would be read as the next flag.
    return [f"--{flag}={word}"] if word.startswith("-") else [f"--{flag}", word]


def _word(value: Any, name: str) -> str:
    if value is not None and not isinstance(value, (str, int, float, Path)):
        raise UserError(f"{name} cannot be given on a command line ({value!r}): put it into a recipe of its own.")
    return str(value)
