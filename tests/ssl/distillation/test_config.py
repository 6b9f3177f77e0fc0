"""The recipes of distillation are read, open as all recipes do, and say what they need."""

from pathlib import Path

import pytest

from umbel.config import from_values, read_recipe, recipe_names
from umbel.ssl.distillation.config import DistillConfig

RECIPES = Path(__file__).parents[3] / "umbel" / "recipes"


def test_there_are_recipes_for_a_cpu_and_for_a_gpu() -> None:
    assert recipe_names("distill") == ["distill/features", "distill/grid", "distill/labels", "distill/small-cpu"]
    assert not [name for name in recipe_names("pretrain") if name.startswith("distill/")]


@pytest.mark.parametrize("name", recipe_names("distill"))
def test_a_recipe_is_read(name: str) -> None:
    given = DistillConfig(teacher="t", data="d", out=Path("o"), recipe=name)
    label, values = given.recipe_values()
    config = from_values(given, values, label)
    assert (config.recipe, "over" in values) == (name, False)
    # Distillation by class probabilities with the labels, as the specification weighs them, or by features alone.
    if name in ("distill/labels", "distill/grid"):
        assert config.loss.active == {"logits": 0.9, "labels": 0.1}
    else:
        assert config.loss.active == {"pooled": 1.0, "patches": 1.0}
    opening = (RECIPES / f"{name}.yaml").read_text().split("format:")[0]
    for word in ("Expected", "Time", "Hardware", "Disk", "Memory", "Command"):
        assert f"#   {word} " in opening, word
    assert ("over" in read_recipe(name, "distill")) == (name == "distill/grid")
