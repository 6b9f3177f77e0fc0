"""Recipes of pipelines: checked as a whole before anything runs, and made of words that the commands read."""

import dataclasses
import importlib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umbel import cli, config
from umbel.pipeline_recipe import Asked, read_pipeline
from umbel.run import UserError
from umbel.task import Task

MINIMAL = "format: 1\ncommand: pipeline\nsynthetic: {train: 8}\npretrain: {recipe: demo}\n"
FIRST = Asked(data=None, out=Path("out"), seed=3, device="cpu")


@pytest.fixture
def steps(tmp_path: Path) -> Callable[..., list[Task]]:
    """Read a recipe of the given text."""

    def read(text: str, **asked: Any) -> list[Task]:
        file = tmp_path / "recipe.yaml"
        file.write_text(text)
        return read_pipeline(str(file), dataclasses.replace(FIRST, **asked))

    return read


def read_by_its_command(task: Task) -> Any:
    """The configuration that a step's command makes of its words."""
    found = cli.find(task.words)
    assert found is not None, task.words
    module, function = cli.COMMANDS[found[0]][0].split(":")
    wanted = typing.get_type_hints(getattr(importlib.import_module(module), function))["config"]
    return config.parse(wanted, found[1], prog="umbel", help="")


def test_codes_of_an_adapted_backbone_are_made_of_photographs(steps: Callable[..., list[Task]]) -> None:
    adapted = "embed: {}\nhash_fit: {pairs: names, lora: {rank: 2}}\nhash_encode: {part: 9}\nhash_evaluate: {}\n"
    tasks = {task.name: task for task in steps(MINIMAL + adapted)}
    read = {name: read_by_its_command(tasks[name]) for name in ("hash_fit", "hash_encode", "hash_evaluate")}
    assert (read["hash_fit"].source, read["hash_fit"].data) == ("out/run", "out/shards")
    encode = read["hash_encode"]
    assert (encode.data, encode.embeddings, encode.part, encode.device) == ("out/shards", None, 9, "cpu")
    assert read["hash_evaluate"].inputs == (Path("out/run/codes"),)


@pytest.mark.parametrize("name", config.recipe_names("pipeline"))
def test_a_shipped_recipe_makes_words_that_its_commands_read(
    name: str, made_shards: Callable[..., Path], tmp_path: Path
) -> None:
    data = None if "plants" in name else str(tmp_path / "photographs")
    made_shards()
    tasks = read_pipeline(name, dataclasses.replace(FIRST, data=data, out=tmp_path / "out"))
    names = [task.name for task in tasks]
    ends = ["hash_fit", "hash_encode", "hash_evaluate", "export", "report"]
    assert names == ["shards", "pretrain", "embed", "probe", *ends]
    read = {task.name: read_by_its_command(task) for task in tasks}
    assert read["pretrain"].recipe == "demo"
    assert (read["pretrain"].seed, read["probe"].seed, read["hash_fit"].seed, read["shards"].seed) == (3, 3, 3, 3)
    assert read["pretrain"].device == read["embed"].device == "cpu"
    assert read["pretrain"].backbone.width == 64
    assert read["hash_fit"].bits == 16
    for place, task in enumerate(tasks):
        assert set(task.needs) <= set(names[:place])


def test_what_needs_what(steps: Callable[..., list[Task]]) -> None:
    everything = "embed: {}\nprobe: {}\nhash_fit: {}\nhash_encode: {}\nhash_evaluate: {}\nexport: {}\nreport: {}\n"
    needs = {task.name: set(task.needs) for task in steps(MINIMAL + everything)}
    assert needs["pretrain"] == {"shards"}
    assert needs["hash_fit"] == needs["embed"] == needs["export"] == {"pretrain"}
    assert needs["hash_encode"] == {"hash_fit", "embed"}
    assert needs["report"] == {"pretrain", "probe", "hash_evaluate"}
    by_itq = {
        task.name: task for task in steps(MINIMAL + everything.replace("hash_fit: {}", "hash_fit: {method: itq}"))
    }
    assert set(by_itq["hash_fit"].needs) == {"pretrain", "embed"}
    assert read_by_its_command(by_itq["hash_fit"]).source == "out/run/embeddings"
    pairs = {
        task.name: task for task in steps(MINIMAL + everything.replace("hash_fit: {}", "hash_fit: {pairs: names}"))
    }
    assert set(pairs["hash_fit"].needs) == {"pretrain", "embed"}
    assert read_by_its_command(pairs["hash_fit"]).source == "out/run/embeddings"


def test_an_export_in_formats_is_done_when_the_first_of_them_is_whole(steps: Callable[..., list[Task]]) -> None:
    plain = steps(MINIMAL + "export: {}\n")[-1]
    assert read_by_its_command(plain).data is None
    assert plain.result == Path("out/run/export/timm/model.safetensors")
    formats = steps(MINIMAL + "export: {to: [onnx, dinov2], int8: true}\n")[-1]
    assert formats.result == Path("out/run/export/dinov2/SHA256SUMS")
    read = read_by_its_command(formats)
    assert read.formats() == ("dinov2", "onnx")
    assert read.int8
    assert read.data == "out/shards"


def test_a_recipe_may_leave_steps_out(steps: Callable[..., list[Task]]) -> None:
    tasks = steps(MINIMAL + "report: {}\n")
    assert [task.name for task in tasks] == ["shards", "pretrain", "report"]
    assert tasks[2].needs == ("pretrain",)


def test_shards_are_taken_as_they_are_and_photographs_become_some(
    steps: Callable[..., list[Task]], made_shards: Callable[..., Path], tmp_path: Path
) -> None:
    shards = made_shards()
    text = MINIMAL.replace("synthetic: {train: 8}\n", "folder: {test_share: 0.5}\n")
    taken = steps(text, data=str(shards))
    assert [task.name for task in taken] == ["pretrain"]
    assert (taken[0].words[1], taken[0].needs) == (str(shards), ())
    made = steps(text, data=str(tmp_path / "photographs"))
    assert [task.name for task in made] == ["shards", "pretrain"]
    assert read_by_its_command(made[0]).test_share == 0.5
    assert made[1].words[1] == "out/shards"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pretrian: {recipe: demo}\n", "unknown step 'pretrian', did you mean 'pretrain'?"),
        (MINIMAL + "embed: {batsh: 3}\n", "embed: unknown key 'batsh', did you mean 'batch'?"),
        (MINIMAL + "embed: {batch: many}\n", "embed: batch must be of type int, not 'many'"),
        (MINIMAL + "embed: {batch: 0}\n", "embed: batch must be at least 1, not 0"),
        (MINIMAL + "embed: [1]\n", "embed must be a mapping of settings"),
        (MINIMAL + "embed:\n", "embed must be a mapping of settings ({} for none)"),
        (MINIMAL + "embed: {out: elsewhere}\n", "'out' is for the pipeline to say"),
        (MINIMAL + "hash_encode: {}\n", "hash_encode needs the step hash_fit"),
        (MINIMAL + "hash_fit: {method: itq}\n", "hash_fit by itq needs the step embed"),
        (MINIMAL.replace("demo", "demmo"), "recipe 'demmo' is unknown, did you mean 'demo'?"),
        (MINIMAL.replace("recipe: demo", "recipe: auto"), "recipe must be a recipe's name"),
        (MINIMAL.replace("recipe: demo", "seed: 3"), "must name its recipe"),
        (MINIMAL.replace("demo", "demo, train: {epochs: -1.0}"), "train.epochs"),
        (MINIMAL.replace("train: 8", "train: 0"), "--train must be at least 1"),
        (MINIMAL.replace("pipeline", "pretrain"), "must say 'command: pipeline'"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(text: str, words: str, steps: Callable[..., list[Task]]) -> None:
    if "format" not in text:
        text = "format: 1\ncommand: pipeline\n" + text
    with pytest.raises(UserError) as told:
        steps(text)
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("pipeline/plants", "somewhere", "leave out --data"),
        ("pipeline/folder", None, "give them with --data"),
        ("pipeline/folder", "nowhere-at-all", "there is no such folder"),
        ("pipeline/plant", None, "did you mean 'pipeline/plants'?"),
        ("demo", None, "'demo' is unknown"),
    ],
)
def test_data_and_recipe_must_fit(name: str, data: str | None, words: str) -> None:
    with pytest.raises(UserError) as told:
        read_pipeline(name, dataclasses.replace(FIRST, data=data))
    assert words in str(told.value)
