"""The commands that the guides and the README give exist, with every flag that they are given."""

import importlib
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from umbel import cli, config
from umbel.launch import launch_arguments
from umbel.run import UserError

CHECKOUT = Path(__file__).parents[1]
GUIDES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]


def commands(file: Path) -> Iterator[str]:
    """Lines of code that begin with umbel, a prompt or a launcher in front or not."""
    text = file.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"^    (.*)$", text, re.MULTILINE)
    for line in lines:
        for part in re.split(r"; (?=umbel )", line):
            if found := re.match(r"\s*(?:\$ |.* -m )?(umbel .*)", part):
                yield found[1].strip()


ALL = {file.name: list(dict.fromkeys(commands(file))) for file in GUIDES}


@pytest.mark.parametrize("command", [command for found in ALL.values() for command in found])
def test_a_command_of_a_guide_is_read(command: str) -> None:
    words = shlex.split(command.replace("[", "").replace("]", ""), comments=True)
    found = cli.find(words[1:])
    assert found is not None
    name, rest = found
    if name in (*cli.LONG, *cli.SENDERS):
        rest, launching = launch_arguments.cut(rest)
        # A site's file is the reader's own.
        launching = [
            "--launch.nodes=1" if "launch.site" in word or word.endswith(".yaml") else word for word in launching
        ]
        launch_arguments.parse(launching, "umbel")
    module, function = cli.COMMANDS[name][0].split(":")
    wanted = typing.get_type_hints(getattr(importlib.import_module(module), function))["config"]
    if name == "pretrain" and "--recipe" not in rest:  # chosen by the number of the reader's photographs
        with pytest.raises(UserError, match="does not exist: give a folder of photographs"):
            config.parse(wanted, rest, prog=f"umbel {name}", help="")
        return
    read = config.parse(wanted, rest, prog=f"umbel {name}", help="")
    if name == "pretrain":
        assert read.recipe is None or read.recipe in config.recipe_names()


def test_the_guide_has_the_commands_of_data_training_and_scores() -> None:
    named = {found[0] for words in map(shlex.split, ALL["reproduce.md"]) if (found := cli.find(words[1:]))}
    assert {"shards make inat2021", "shards make meta-album", "shards check", "pretrain", "probe"} <= named
    for recipe in ("paper/vitb16", "paper/vitl16"):
        assert any(f"--recipe {recipe}" in command for command in ALL["reproduce.md"])


@pytest.mark.parametrize(("guide", "named"), [
    ("distill.md", {"distill", "sweep"}),
    ("export.md", {"export", "import", "predict"}),
    ("hashing.md", {"embed", "hash fit", "hash encode", "hash search", "hash evaluate", "hash serve"}),
    ("pipeline.md", {"pipeline", "sweep", "jobs"}),
    ("slurm.md", {"pretrain", "doctor"}),
])  # fmt: skip
def test_a_guide_has_its_commands(guide: str, named: set[str]) -> None:
    words = [shlex.split(command, comments=True) for command in ALL[guide]]
    found = {found[0] for one in words if (found := cli.find(one[1:]))}
    assert named <= found
