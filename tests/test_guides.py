"""The commands of docs/reproduce.md and docs/export.md exist, with every flag that they are given."""

import importlib
import re
import shlex
import typing
from pathlib import Path

import pytest

from umbel import cli, config

GUIDE = Path(__file__).parents[1] / "docs" / "reproduce.md"
BLOCKS = re.findall(r"^```\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [line.strip() for block in BLOCKS for line in block.splitlines() if "umbel " in line]
EXPORTS = re.findall(r"^    (?:\$ )?(umbel .*)$", (GUIDE.parent / "export.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", [*COMMANDS, *EXPORTS])
def test_a_command_of_the_guide_is_read(command: str) -> None:
    words = shlex.split(command, comments=True)
    found = cli.find(words[words.index("umbel") + 1 :])
    assert found is not None
    name, rest = found
    module, function = cli.COMMANDS[name][0].split(":")
    wanted = typing.get_type_hints(getattr(importlib.import_module(module), function))["config"]
    read = config.parse(wanted, rest, prog=f"umbel {name}", help="")
    if name == "pretrain":
        assert read.recipe in config.recipe_names()


def test_the_guide_has_the_commands_of_data_training_and_scores() -> None:
    named = {found[0] for words in map(shlex.split, COMMANDS) if (found := cli.find(words[words.index("umbel") + 1 :]))}
    assert {"shards make inat2021", "shards make meta-album", "shards check", "pretrain", "probe"} <= named
    for recipe in ("paper/vitb16", "paper/vitl16"):
        assert any(f"--recipe {recipe}" in command for command in COMMANDS)


def test_the_guide_of_exports_has_its_three_commands() -> None:
    assert {command.split()[1] for command in EXPORTS} == {"export", "import", "predict"}
