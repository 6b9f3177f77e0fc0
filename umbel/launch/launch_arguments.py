"""The words of a command line that say where it runs: `--launch slurm --launch.nodes 2 ...`.

They are cut out before the command's own parser sees them. So a configuration knows nothing of launching (runs are
compared and continued by it), and any command takes part by its name alone; tyro has no flag that is both a value and
a group, as `--launch` is.
"""

from __future__ import annotations

import contextlib
import io
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from umbel.launch.launch_config import LaunchConfig, read_site
from umbel.run import UserError

FLAG = "--launch"


@dataclass(frozen=True, kw_only=True)
class LaunchArguments:
    """The settings as the parser sees them: a group."""

    launch: LaunchConfig = field(default_factory=LaunchConfig)
    """Where the command runs."""

    def recipe_values(self) -> tuple[str, dict[str, Any]]:
        """The site's settings, which flags stand over, and to whose lists they add."""
        lists: dict[str, Any] = {"setup": [], "sbatch": []}  # the flags are read a second time
        site = self.launch.site
        return f"site {site}", {"launch": lists | (read_site(site) if site else {})}


def cut(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of the command itself, and those of launching.

    A word behind `--` or behind no flag of ours stays where it is.

    Raises:
        UserError: a flag of launching without its value.
    """
    own: list[str] = []
    launching: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != FLAG and not name.startswith(f"{FLAG}."):
            own.append(word)
            continue
        # `--launch WHERE`: the group's own value.
        flag = f"{FLAG}.where" if name == FLAG else name
        launching.append(f"{flag}{equals}{value}")
        if not equals and not _is_switch(name):
            following = next(words, None)
            if following is None or following.startswith("--"):
                raise UserError(f"{name} needs a value.")
            launching.append(following)
    return own, launching


def _is_switch(name: str) -> bool:
    inner = name.removeprefix(f"{FLAG}.").removeprefix("no-").replace("-", "_")
    return typing.get_type_hints(LaunchConfig).get(inner) is bool


def parse(launching: Sequence[str], prog: str) -> LaunchConfig:
    """Read the words that `cut` found.

    Raises:
        UserError: a wrong flag or value, also in the site file.
    """
    if not launching:
        return LaunchConfig()
    from umbel import config

    return config.parse(_with_lists(), launching, prog=prog, help="Where a command runs").launch


def help_text() -> str:
    """The flags in plain lines, as an appendix to a command's help."""
    import tyro

    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        tyro.cli(_with_lists(), args=["--help"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", told.getvalue())  # a terminal's colors
    text = text[text.index(f"{FLAG}.where") :]
    rows = [line.strip("│╭╮╰╯─ ") for line in text.splitlines()]
    flags = "\n".join(row if row.startswith(f"{FLAG}.") else f"      {row}" for row in rows if row)
    return f"launching ({FLAG} WHERE is short for the first one):\n{flags}"


def _with_lists() -> type[LaunchArguments]:
    """The arguments with lists that grow by a flag each time, so that no value is taken for the next one."""
    import tyro

    return tyro.conf.configure(tyro.conf.UseAppendAction)(LaunchArguments)
