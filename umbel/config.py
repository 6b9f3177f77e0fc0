"""Recipes and the command line: strict YAML into frozen dataclasses, dotted flags over it (tyro).

A recipe gives defaults, flags override them, and the resolved configuration is itself a valid recipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.resources
import io
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from umbel.run import UserError

Config = TypeVar("Config")
RECIPE_FORMAT = 1
_HEADER = ("format", "command")
RECIPE_FOLDERS = ("pipeline", "finetune", "distill")


class StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice (YAML would silently keep the last), and reads 24:00 as text.

    YAML 1.1 has numbers to the base of 60: 24:00 would be 1440.
    """

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        if kind is yaml.ScalarNode and ":" in value and tag.endswith((":int", ":float")):
            return "tag:yaml.org,2002:str"
        return tag

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def recipe_names(command: str = "pretrain") -> list[str]:
    """The recipes of a command that come with Umbel, by name (`demo`, `paper/vitb16`, ...).

    Recipes of commands other than pretraining stand in a folder of the command's name.
    """
    root = importlib.resources.files("umbel") / "recipes"
    with importlib.resources.as_file(root) as folder:
        names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    others = [other for other in RECIPE_FOLDERS if other != command]
    mine = [name for name in names if command == "pretrain" or name.startswith(f"{command}/")]
    return [name for name in mine if name.split("/")[0] not in others]


def read_recipe(name: str, command: str) -> dict[str, Any]:
    """The values of a recipe: a name that comes with Umbel, or a YAML file of the user's.

    Raises:
        UserError: no such recipe, not YAML, of another command, or of a newer format.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"recipe {name}: there is no such file.")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"recipe {name} is not text in UTF-8.") from error
    elif name in (known := recipe_names(command)):
        text = (importlib.resources.files("umbel") / "recipes" / f"{name}.yaml").read_text()
    else:
        raise UserError(f"recipe '{name}' is unknown{nearest(name, known)}; there are: {', '.join(known)}.")
    try:
        # The loader derives from yaml.SafeLoader: plain data only.
        values = yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError as error:
        raise UserError(f"recipe {name} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise UserError(f"recipe {name} must be a mapping of settings, not {type(values).__name__}.")
    if values.get("format") != RECIPE_FORMAT:
        raise UserError(f"recipe {name} must say 'format: {RECIPE_FORMAT}', not {values.get('format')!r}.")
    if values.get("command") != command:
        raise UserError(f"recipe {name} must say 'command: {command}' to be used here, not {values.get('command')!r}.")
    return {key: value for key, value in values.items() if key not in _HEADER}


def write_recipe(config: Any, command: str) -> str:
    """A configuration as YAML that `read_recipe` reads."""
    values = {"format": RECIPE_FORMAT, "command": command} | to_values(config)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def to_values(config: Any) -> Any:
    """A configuration as plain data (paths as strings, tuples as lists)."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_values(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_values(value) for value in config]
    if isinstance(config, dict):
        return {key: to_values(value) for key, value in config.items()}
    return str(config) if isinstance(config, Path) else config


def from_values(base: Config, values: dict[str, Any], where: str) -> Config:
    """`base` with the given values over it, checked against the dataclass.

    Raises:
        UserError: an unknown key (names the nearest known one) or a value of the wrong type.
    """
    hints = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(as_sentence(f"{where}: unknown key '{key}'{nearest(key, hints)}"))
        current = getattr(base, key)
        label = f"{where}: {key}"
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise UserError(f"{label} must be a mapping of settings, not {value!r}.")
            changes[key] = from_values(current, value, label)
        else:
            changes[key] = _convert(value, hints[key], label)
    try:
        return dataclasses.replace(base, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise UserError(as_sentence(f"{where}: {error}")) from error


def completed(values: dict[str, Any], like: Any, where: str) -> dict[str, Any]:
    """A written configuration with the defaults of those settings that did not exist yet when it was written.

    Args:
        like: a configuration of the same kind; what has no default is taken from it.

    Raises:
        UserError: as `from_values`.
    """
    absent = dataclasses.MISSING
    needed = [f.name for f in dataclasses.fields(like) if f.default is absent and f.default_factory is absent]
    defaults = type(like)(**{name: getattr(like, name) for name in needed})
    completed: dict[str, Any] = to_values(from_values(defaults, values, where))
    return completed


def _convert(value: Any, hint: Any, label: str) -> Any:
    """Check one value against a type hint; whole numbers serve as floats, lists as tuples."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _convert(value, arguments[0], label)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not type(None)]
        # Of two kinds a list is meant for the tuple: one number or a range, a name or a list.
        fitting = [kind for kind in kinds if (get_origin(kind) is tuple) == isinstance(value, list)]
        return _convert(value, (fitting or kinds)[0], label)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{label} must be one of {', '.join(map(str, arguments))}, not {value!r}.")
        return value
    if origin is tuple:
        any_length = arguments[-1:] == (Ellipsis,)
        if not isinstance(value, list) or (not any_length and len(value) != len(arguments)):
            length = "" if any_length else f" of {len(arguments)}"
            raise UserError(f"{label} must be a list{length}, not {value!r}.")
        inner = arguments[:1] * len(value) if any_length else arguments
        return tuple(_convert(v, h, label) for v, h in zip(value, inner, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{label} must be a mapping, not {value!r}.")
        return value
    if hint is Path:
        hint, value = str, value
        return Path(_convert(value, str, label))
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-6 (no point) as a string.
        try:
            return float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{label} must be of type {hint.__name__}, not {value!r}.")
    return value


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """', did you mean X?' for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""


def as_sentence(text: str) -> str:
    """The text with an end mark: a period, where it does not end with a mark of its own."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def first_difference(old: dict[str, Any], new: dict[str, Any], ignore: Sequence[str]) -> str | None:
    """The first field in which two configurations differ, as 'key: old there, new now'; dotted names in `ignore`."""
    for key in [*new, *(k for k in old if k not in new)]:
        if key in ignore:
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            inner = [name.removeprefix(f"{key}.") for name in ignore if name.startswith(f"{key}.")]
            found = first_difference(a, b, inner)
            if found:
                return f"{key}.{found}"
        elif a != b:
            return f"{key}: {a} there, {b} now"
    return None


SEEDS = 1 << 63
"""Seeds that torch takes."""


def parse(config: type[Config], arguments: Sequence[str], *, prog: str, help: str) -> Config:
    """Read a command line into a configuration.

    A configuration with a method `recipe_values()` is read twice: once to learn the recipe, then with the values that
    the method returns as defaults, so that flags stand over the recipe.
    """
    first = _read_flags(config, None, arguments, prog, help)
    if not isinstance(first, HasRecipe):
        return first
    label, values = first.recipe_values()
    return _read_flags(config, from_values(first, values, label), arguments, prog, help)


@typing.runtime_checkable
class HasRecipe(typing.Protocol):
    """A configuration whose defaults come from a recipe."""

    def recipe_values(self) -> tuple[str, dict[str, Any]]:
        """The recipe in words, and its values."""
        ...


@typing.runtime_checkable
class HasData(typing.Protocol):
    """A configuration that can tell, before a command is sent elsewhere, that its data are not there."""

    def check_data(self) -> None:
        """Raises UserError for data that are not there."""
        ...


def _read_flags(config: type[Config], default: Config | None, arguments: Sequence[str], prog: str, help: str) -> Config:
    import tyro

    keywords: dict[str, Any] = {} if default is None else {"default": default}
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            result: Config = tyro.cli(config, prog=prog, description=help, args=list(arguments), **keywords)
    except ValueError as error:
        # A check of the configuration's own, with the field's name and the value.
        raise UserError(as_sentence(str(error))) from error
    except SystemExit as ended:
        if ended.code == 0:
            raise
        reason = box_as_sentence(told.getvalue())
        end = "" if reason.endswith("?") else ";"
        raise UserError(f"{reason}{end} `{prog} --help` lists the options.") from None
    seed = getattr(result, "seed", 0)
    if isinstance(seed, int) and not 0 <= seed < SEEDS:
        raise UserError(f"--seed must be from 0 to {SEEDS - 1:,}, not {seed}.")
    return result


def box_as_sentence(box: str) -> str:
    """What tyro says in a box (framed or not, colored or not) as one line: its sections less title and pointers."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯| ").strip() for line in box.splitlines()]
    sections: list[list[str]] = [[]]
    for line in lines[next((n for n, line in enumerate(lines) if line), 0) + 1 :]:
        if line and set(line) <= set("─-"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    # A check of the configuration's own comes with the class's name in front, which is none of the user's.
    told = [re.sub(r"^Error parsing \w+: ", "", " ".join(words)).rstrip(".") for words in sections if words]
    return "; ".join(text for text in told if not text.startswith(("For full helptext", "Argument helptext")))
