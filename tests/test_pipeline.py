"""The demo's pretraining: whose folder it trains in."""

from pathlib import Path

from umbel.config import write_recipe
from umbel.pipeline import DemoConfig, pretraining
from umbel.ssl.pretrain_config import PretrainConfig


def test_another_runs_configuration_as_recipe_leaves_that_run_alone(tmp_path: Path) -> None:
    other = PretrainConfig(data="elsewhere", out=tmp_path / "other", seed=9, force=True)
    recipe = tmp_path / "config.yaml"
    recipe.write_text(write_recipe(other, "pretrain"))
    config = DemoConfig(out=tmp_path / "demo", recipe=str(recipe), epochs=1.0)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(b"")
    found = pretraining(config, str(folder), "cpu")
    assert (found.out, found.data, found.force) == (tmp_path / "demo" / "run", str(folder), False)
    assert (found.seed, found.train.epochs) == (config.seed, 1.0)
