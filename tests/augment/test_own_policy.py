"""A policy as a list in a recipe: what it means, what is refused and how, and that a run's configuration keeps it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from umbel import config
from umbel.augment.geometric import Affine, Erasing, HorizontalFlip, Rotation
from umbel.augment.jitter import ColorJitter
from umbel.augment.operation import ByView
from umbel.augment.own_policy import OPERATIONS, operations_of, policy_name
from umbel.augment.photometric import Equalize, GaussianBlur, Grayscale, Posterize, Sharpness, Solarize
from umbel.augment.policy import POLICIES
from umbel.augment.views import ViewsConfig
from umbel.run import UserError
from umbel.ssl.pretrain_config import PretrainConfig

OWN = """
- {name: ColorJitter, p: 0.8, brightness: [0.5, 1.2], hue: 0}
- {name: RandomGaussianBlur, p: {first global: 1, local: 0.5}, kernel_size: 5, sigma: [0.1, 2]}
- {name: RandomSolarize, p: {second global: 0.2}}
- {name: RandomGrayscale, p: {global: 0.3}}
- {name: RandomPosterize, p: 1, bits: [2, 6]}
- {name: RandomAffine, p: 0.3, degrees: [0, 15], translate: [0.2, 0], resample: bilinear, padding_mode: reflection}
- {name: RandomRotation, p: 0.1, degrees: 30}
- {name: RandomHorizontalFlip, p: 0.5}
- {name: RandomSharpness, p: 0.5, sharpness: 2}
- {name: RandomEqualize, p: 0}
- {name: RandomErasing, p: 0.5, scale: [0.1, 0.2], ratio: [1, 2], value: 0.5}
"""


def read(policy: Any) -> ViewsConfig:
    """Of a recipe's views; YAML text or a value."""
    values = yaml.safe_load(policy) if isinstance(policy, str) else policy
    return config.from_values(ViewsConfig(), {"policy": values}, "recipe mine.yaml: views")


def test_every_entry_becomes_its_operation() -> None:
    assert operations_of(read(OWN).policy) == (
        ColorJitter(p=0.8, brightness=(0.5, 1.2), contrast=0.4, saturation=0.2, hue=0.0),
        GaussianBlur(p=ByView(first_global=1.0, local=0.5), kernel_size=5, sigma=(0.1, 2.0)),
        Solarize(p=ByView(second_global=0.2), thresholds=(128 / 255, 128 / 255)),
        Grayscale(p=ByView(first_global=0.3, second_global=0.3)),
        Posterize(p=1.0, bits=(2, 6)),
        Affine(p=0.3, degrees=(0.0, 15.0), translate=(0.2, 0.0), resample="bilinear", padding_mode="reflection"),
        Rotation(p=0.1, degrees=30.0),
        HorizontalFlip(p=0.5),
        Sharpness(p=0.5, sharpness=2.0),
        Equalize(p=0.0),
        Erasing(p=0.5, scale=(0.1, 0.2), ratio=(1.0, 2.0), value=0.5),
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_may_stand_with_its_probability_alone(name: str) -> None:
    assert operations_of(({"name": name, "p": 0.25},)) == (OPERATIONS[name](p=0.25),)


@pytest.mark.parametrize("name", POLICIES)
def test_names_are_policies(name: str) -> None:
    assert operations_of(name) == POLICIES[name]
    assert policy_name(name) == name


def test_an_empty_list_does_nothing() -> None:
    assert operations_of(read([]).policy) == ()
    assert policy_name(()) == "none"


def test_a_list_is_named_by_its_operations() -> None:
    policy = read("[{name: ColorJitter, p: 1}, {name: RandomErasing, p: 1}]").policy
    assert policy_name(policy) == "ColorJitter, RandomErasing"


FAULTS = [
    ("[{name: RandomGausianBlur, p: 1}]", "operation 1: 'RandomGausianBlur'", "did you mean 'RandomGaussianBlur'?"),
    ("[{name: RandomMotionBlur, p: 1}]", "'RandomMotionBlur' cannot stand in a policy", "there are: ColorJitter"),
    ("[{name: ColorJitter, p: 1, brightnes: 0.1}]", "operation 1 (ColorJitter)", "did you mean 'brightness'?"),
    ("[{name: ColorJitter, p: 1, draws: 3}]", "unknown parameter 'draws'", "there are: p, brightness, contrast"),
    ("[{name: RandomGrayscale, p: 1}, {name: ColorJitter}]", "operation 2 (ColorJitter) has no p", ""),
    ("[{p: 1}]", "operation 1 has no name", "there are: ColorJitter"),
    ("[{name: [1], p: 1}]", "'[1]' cannot stand in a policy", ""),
    ("[{name: ColorJitter, p: 1.5}]", "(ColorJitter): p must be a probability, not 1.5", ""),
    ("[{name: ColorJitter, p: .nan}]", "p must be a probability, not nan", ""),
    ("[{name: ColorJitter, p: often}]", "p must be a number", "'often'"),
    ("[{name: ColorJitter, p: true}]", "p must be a number", "True"),
    ("[{name: ColorJitter, p: {locl: 1}}]", "unknown kind of view 'locl'", "did you mean 'local'?"),
    ("[{name: ColorJitter, p: {local: x}}]", "p must be a number", "'x'"),
    ("[{name: ColorJitter, p: {global: 1, first global: 0}}]", "p is given twice for the first global view", ""),
    ("[{name: ColorJitter, p: 1, hue: 0.7}]", "(ColorJitter): hue must be a range from -0.5 to 0.5", "-0.7 to 0.7"),
    ("[{name: ColorJitter, p: 1, hue: [0.2, 0.1]}]", "hue must be a range", "0.2 to 0.1"),
    ("[{name: ColorJitter, p: 1, hue: [0.2]}]", "hue must be a list of 2", "[0.2]"),
    ("[{name: ColorJitter, p: 1, hue: red}]", "(ColorJitter): hue must be of type float", "'red'"),
    ("[{name: RandomPosterize, p: 1, bits: [3, 4, 5]}]", "bits must be a list of 2", "[3, 4, 5]"),
    ("[{name: RandomPosterize, p: 1, bits: [0, 9]}]", "bits must be a range from 1 to 8", "0 to 9"),
    ("[{name: RandomAffine, p: 1, resample: bicubic}]", "resample must be one of nearest, bilinear", "'bicubic'"),
    ("[{name: RandomAffine, p: 1, padding_mode: mirror}]", "padding_mode must be one of", "'mirror'"),
    ("[{name: RandomGaussianBlur, p: 1, kernel_size: 4}]", "kernel_size must be odd", "4"),
    ("[ColorJitter]", "policy must be a mapping", "'ColorJitter'"),
    ("{name: ColorJitter, p: 1}", "policy must be of type str", ""),
    ("3", "policy must be of type str", "3"),
    ("dinov", "did you mean 'dinov2'?", "must be one of plant, plant-paper, dinov2, none, or a list in a recipe"),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "words", "more"), FAULTS)
def test_a_fault_is_named_when_the_recipe_is_read(policy: str, words: str, more: str) -> None:
    with pytest.raises(UserError, match=r"^recipe mine\.yaml: views: ") as caught:
        read(policy)
    assert words in str(caught.value)
    assert more in str(caught.value)
    assert "policy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_views_too_small_for_an_operation_are_refused() -> None:
    blur = ({"name": "RandomGaussianBlur", "p": 0.1, "kernel_size": 33},)
    with pytest.raises(ValueError, match=r"must be at least 17 for this views\.policy"):
        ViewsConfig(global_size=32, local_size=16, policy=blur)
    assert ViewsConfig(global_size=32, local_size=17, policy=blur).policy == blur


# --- Through the command line and the run folder


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    file = tmp_path / "mine.yaml"
    entries = "".join(f"    {line}\n" for line in OWN.strip().splitlines())
    file.write_text(f"format: 1\ncommand: pretrain\nviews:\n  local_size: 64\n  policy:\n{entries}")
    return str(file)


def parse(*arguments: str) -> PretrainConfig:
    return config.parse(PretrainConfig, ["d", "--out", "r", *arguments], prog="umbel pretrain", help="")


def test_a_recipes_list_comes_through_the_command_line(recipe: str) -> None:
    found = parse("--recipe", recipe, "--views.flip", "0.1").views
    assert (found.local_size, found.flip) == (64, 0.1)
    assert found.policy == tuple(yaml.safe_load(OWN))


@pytest.mark.parametrize("name", POLICIES)
def test_a_name_on_the_command_line_stands_over_a_recipes_list(recipe: str, name: str) -> None:
    assert parse("--recipe", recipe, "--views.policy", name).views.policy == name


def test_a_resolved_configuration_with_a_list_is_a_recipe_of_itself(recipe: str, tmp_path: Path) -> None:
    resolved = parse("--recipe", recipe)
    file = tmp_path / "config.yaml"
    file.write_text(config.write_recipe(resolved, "pretrain"))
    again = config.from_values(PretrainConfig(data="d", out=Path("r")), config.read_recipe(str(file), "pretrain"), "x")
    assert again.views == resolved.views
    same = config.first_difference(config.to_values(resolved), config.to_values(again), ["recipe"])
    assert same is None


def test_another_probability_is_another_configuration(recipe: str) -> None:
    values = config.to_values(parse("--recipe", recipe))
    other = config.to_values(parse("--recipe", recipe))
    other["views"]["policy"][0]["p"] = 0.7
    assert re.match(r"views\.policy: ", config.first_difference(values, other, []) or "")
