"""The ablation's recipes: the plant paper's policy with one value changed, and all else drawn alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from umbel import config
from umbel.augment.own_policy import operations_of
from umbel.augment.policy import POLICIES
from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig

CHANGES: dict[str, tuple[str, str, Any]] = {
    "no-jitter": ("ColorJitter", "p", 0.0),
    "no-posterize": ("RandomPosterize", "p", 0.0),
    "no-affine": ("RandomAffine", "p", 0.0),
    "border": ("RandomAffine", "padding_mode", "border"),
    "reflection": ("RandomAffine", "padding_mode", "reflection"),
    "grayscale": ("RandomGrayscale", "p", 0.2),
    "blur": ("RandomGaussianBlur", "p", {"first global": 1.0, "second global": 0.1, "local": 0.5}),
    "solarize": ("RandomSolarize", "p", {"second global": 0.2}),
}


def values(name: str) -> dict[str, Any]:
    return config.read_recipe(f"ablation/{name}", "pretrain")


def views(name: str) -> ViewsConfig:
    return config.from_values(ViewsConfig(), values(name)["views"], name)


def test_the_recipes_are_these() -> None:
    folder = Path(config.__file__).parent / "recipes" / "ablation"
    assert {path.stem for path in folder.iterdir()} == {"plant-paper", *CHANGES}


def test_the_first_is_the_plant_papers_policy_with_the_others_off() -> None:
    operations = operations_of(views("plant-paper").policy)
    assert tuple(operation for operation in operations if operation.p) == POLICIES["plant-paper"]
    assert len(operations) == 6


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_changes_one_value(name: str) -> None:
    expected, (operation, key, value) = values("plant-paper"), CHANGES[name]
    for entry in expected["views"]["policy"]:
        if entry["name"] == operation:
            assert entry[key] != value
            entry[key] = value
    assert values(name) == expected


@pytest.mark.parametrize(("name", "operation"), [("grayscale", 1), ("blur", 2), ("solarize", 3)])
def test_what_is_turned_on_is_dinov2s(name: str, operation: int) -> None:
    assert operations_of(views(name).policy)[operation] == POLICIES["dinov2"][operation]


@pytest.mark.parametrize("name", CHANGES)
def test_all_else_is_drawn_alike(name: str) -> None:
    draws = []
    for recipe in ("plant-paper", name):
        made = Views(views(recipe), seed=0, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=torch.device("cpu"))
        draws.append(made.draw(np.full((9, 2), 90), np.zeros(9, dtype=int), np.arange(5, 14), 1))
    assert np.array_equal(draws[0].boxes, draws[1].boxes)
    assert np.array_equal(draws[0].policy, draws[1].policy)
