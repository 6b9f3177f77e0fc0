"""The recipe of `umbel pipeline`: what each step is asked for, checked as a whole before anything runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel import config as recipes
from umbel.config_words import as_words
from umbel.data.index import find_shards
from umbel.data.make import MakeFolderConfig, MakeSyntheticConfig
from umbel.machine import DeviceChoice
from umbel.pipeline_steps import Places, first_settings
from umbel.run import UserError
from umbel.ssl.pretrain_config import PretrainConfig
from umbel.task import Task

NEEDS = {
    "shards": (),
    "pretrain": ("shards",),
    "embed": ("pretrain",),
    "probe": ("embed",),
    "hash_fit": ("pretrain",),
    "hash_encode": ("hash_fit", "embed"),
    "hash_evaluate": ("hash_encode", "embed"),
    "export": ("pretrain",),
    "report": ("pretrain",),
}
"""The steps, each with those that it cannot do without."""
SHOWN = ("probe", "hash_evaluate")
"""What the report shows, and so waits for, where the recipe has it."""
SOURCES = ("synthetic", "folder")
"""Sections of the step that makes shards: of drawn plants, or of a folder of photographs."""
SECTIONS = (*SOURCES, *(name for name in NEEDS if name != "shards"))
# What lies where, and between which steps, is the pipeline's to say.
OWN = {"data", "out", "backbone", "source", "coder", "embeddings", "inputs", "paths", "force", "json", "seed", "device"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says beside the recipe."""

    data: str | None
    out: Path
    seed: int
    device: DeviceChoice


def read_sections(name: str) -> dict[str, dict[str, Any]]:
    """The sections of a pipeline's recipe.

    Raises:
        UserError: no such recipe, an unknown section, or a step without one that it needs.
    """
    values = recipes.read_recipe(name, "pipeline")
    for key, section in values.items():
        if key not in SECTIONS:
            raise UserError(f"recipe {name}: unknown step '{key}'{recipes.nearest(key, SECTIONS) or '.'}")
        if not isinstance(section, dict):
            raise UserError(f"recipe {name}: {key} must be a mapping of settings ({{}} for none), not {section!r}.")
    for step in NEEDS:
        for need in NEEDS[step] if step in values else ():
            if need != "shards" and need not in values:
                raise UserError(f"recipe {name}: the step {step} needs the step {need}, which the recipe lacks.")
    if "pretrain" not in values or "recipe" not in values["pretrain"]:
        raise UserError(f"recipe {name}: the step pretrain must name its recipe (pretrain: {{recipe: demo}}).")
    return values


def read_pipeline(name: str, asked: Asked) -> list[Task]:
    """The steps of a recipe, in an order in which they can run.

    Raises:
        UserError: as `read_sections`; an unknown setting, a wrong value, or no data.
    """
    sections, where = read_sections(name), f"recipe {name}"
    places = Places(run=asked.out / "run")
    shards = _shards(sections, asked, where)
    data = str(asked.out / "shards") if shards is not None else str(asked.data)
    made: dict[str, tuple[str, list[str], Path]] = {}
    if shards is not None:
        made["shards"] = (shards[0], shards[1], asked.out / "shards" / "index.json")
    made["pretrain"] = (
        "pretrain",
        _pretraining(sections["pretrain"], data, places, asked, where),
        places.run / "checkpoints",
    )
    results = {
        "embed": places.embeddings / "embeddings.json",
        "probe": places.probe,
        "hash_fit": places.coder / "coder.json",
        "hash_encode": places.codes / "codes.json",
        "hash_evaluate": places.hash,
        "export": places.export / "model.safetensors",
        "report": places.report,
    }
    for step, first in first_settings(places, data, seed=asked.seed, device=asked.device).items():
        if step not in sections:
            continue
        config = _over(first, sections[step], f"{where}: {step}")
        if step == "hash_fit" and _on_embeddings(sections[step]):
            config = dataclasses.replace(config, source=str(places.embeddings))
            if "embed" not in sections:
                how = "with pairs" if config.pairs is not None else f"by {config.method}"
                raise UserError(f"{where}: the step hash_fit {how} needs the step embed.")
        if step.startswith("hash_") and _adapts(sections):
            config = _adapted(step, config, places, data, asked)
        if step == "export" and config.formats():
            config = dataclasses.replace(config, data=data)  # without formats there is nothing to measure
            results[step] = places.export.parent / config.formats()[0] / "SHA256SUMS"
        made[step] = (step.replace("_", " "), as_words(config, _plain(config)), results[step])
    return [_task(step, made, sections, asked.out) for step in made]


def _adapts(sections: dict[str, dict[str, Any]]) -> bool:
    """Whether hash_fit adapts the backbone, so that the step embed has the features of another one."""
    lora = sections.get("hash_fit", {}).get("lora")
    return isinstance(lora, dict) and bool(lora.get("rank"))


def _adapted(step: str, config: Any, places: Places, data: str, asked: Asked) -> Any:
    """Codes are made of the photographs by the coder's own backbone, and measured by themselves."""
    if step == "hash_encode":
        return dataclasses.replace(config, embeddings=None, data=data, device=asked.device)
    return dataclasses.replace(config, inputs=(places.codes,)) if step == "hash_evaluate" else config


def _on_embeddings(fitting: dict[str, Any]) -> bool:
    """Whether hash_fit is fitted on embeddings, and not on the photographs themselves."""
    if _adapts({"hash_fit": fitting}):
        return False
    return fitting.get("method", "crovca") != "crovca" or fitting.get("pairs") is not None


def _task(
    step: str, made: dict[str, tuple[str, list[str], Path]], sections: dict[str, dict[str, Any]], out: Path
) -> Task:
    command, words, result = made[step]
    needs = [*NEEDS[step], *(SHOWN if step == "report" else ())]
    if step == "hash_fit" and _on_embeddings(sections[step]):
        needs.append("embed")
    return Task(
        name=step,
        words=(*command.split(), *words),
        needs=tuple(need for need in needs if need in made),
        result=result,
        log=out / "logs" / f"{step}.txt",
        folder=out / "run" if step == "pretrain" else out / "steps" / step,
    )


def _shards(sections: dict[str, dict[str, Any]], asked: Asked, where: str) -> tuple[str, list[str]] | None:
    """Command and words of the step that makes shards; None where --data names shards already."""
    out = asked.out / "shards"
    if "synthetic" in sections:
        if asked.data is not None:
            raise UserError(f"{where} draws its own plants: leave out --data, or choose another recipe.")
        drawn = _over(MakeSyntheticConfig(out=out, seed=asked.seed), sections["synthetic"], f"{where}: synthetic")
        return "shards make synthetic", as_words(drawn, _plain(drawn))
    if asked.data is None:
        raise UserError(f"{where} needs photographs or shards: give them with --data.")
    if find_shards(asked.data):
        return None
    if not Path(asked.data).is_dir():
        raise UserError(f"--data {asked.data}: there is no such folder of photographs or shards.")
    first = MakeFolderConfig(data=Path(asked.data), out=out, seed=asked.seed)
    config = _over(first, sections.get("folder", {}), f"{where}: folder")
    return "shards make folder", as_words(config, _plain(config))


def _pretraining(section: dict[str, Any], data: str, places: Places, asked: Asked, where: str) -> list[str]:
    """The words of the pretraining: its recipe, and what the pipeline's recipe says over it."""
    name = section["recipe"]
    if not isinstance(name, str) or name == "auto":
        raise UserError(f"{where}: pretrain: recipe must be a recipe's name or YAML file, not {name!r}.")
    begun = PretrainConfig(data=data, out=places.run)
    resolved = recipes.from_values(begun, recipes.read_recipe(name, "pretrain"), f"recipe {name}")
    # A run's own configuration is a recipe too, and says where that run lies.
    resolved = dataclasses.replace(resolved, data=data, out=places.run, force=False)
    config = dataclasses.replace(resolved, recipe=name, seed=asked.seed, device=asked.device)
    over = {key: value for key, value in section.items() if key != "recipe"}
    return as_words(_over(config, over, f"{where}: pretrain"), dataclasses.replace(resolved, recipe="auto"))


def _over(config: Any, section: dict[str, Any], where: str) -> Any:
    """A step's configuration with a section of the recipe over it.

    Raises:
        UserError: an unknown setting, a wrong value, or one that is the pipeline's own.
    """
    for key in section:
        if key in OWN and hasattr(config, key) and not dataclasses.is_dataclass(getattr(config, key)):
            raise UserError(f"{where}: '{key}' is for the pipeline to say: leave it out of the recipe.")
    return recipes.from_values(config, section, where)


def _plain(config: Any) -> Any:
    """A command's configuration before any flag, for `as_words` alone; what has no default is taken from `config`."""
    absent, plain = dataclasses.MISSING, object.__new__(type(config))
    # Unchecked: a command that wants one of two flags has no configuration without any.
    for field in dataclasses.fields(config):
        usual = field.default if field.default_factory is absent else field.default_factory()
        object.__setattr__(plain, field.name, getattr(config, field.name) if usual is absent else usual)
    return plain
