"""Which recipe is chosen, what DATA may be, and that every shipped recipe builds what it describes."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from umbel import config
from umbel.backbones.build import build
from umbel.data.index import open_shards
from umbel.machine import GIB, Choice
from umbel.run import UserError
from umbel.run_folder import RunFolder
from umbel.ssl import recipe_choice
from umbel.ssl.network import Network
from umbel.ssl.operations import step_operations
from umbel.ssl.pretrain import pretraining_shards, resolve
from umbel.ssl.pretrain_config import NOT_COMPARED, PretrainConfig
from umbel.ssl.recipe_choice import choose_recipe, count_photographs

Photographs = Callable[..., Path]
Foreign = Callable[..., Path]


def recipe(name: str) -> PretrainConfig:
    base = PretrainConfig(data="data", out=Path("run"))
    return config.from_values(base, config.read_recipe(name, "pretrain"), name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float, int], None]:
    """Pretend a device, its memory and a number of photographs."""

    def pretend(device: str, memory: float, photographs: int) -> None:
        monkeypatch.setattr(recipe_choice, "choose_device", lambda _: Choice(value=device, reason="pretended"))
        monkeypatch.setattr(recipe_choice, "device_memory", lambda _: int(memory * GIB))
        monkeypatch.setattr(recipe_choice, "count_photographs", lambda *_: photographs)

    return pretend


@pytest.mark.parametrize(
    ("device", "memory", "photographs", "name"),
    [
        ("cpu", 500, 2_000_000, "small-cpu"),
        ("cuda", 80, 2_000_000, "vitb16"),
        ("cuda", 24, 2_000_000, "vits16"),
        ("cuda", 80, 30_000, "vits16"),
    ],
)
def test_the_recipe_fits_device_memory_and_photographs(
    device: str,
    memory: float,
    photographs: int,
    name: str,
    machine: Callable[[str, float, int], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine(device, memory, photographs)
    assert choose_recipe(PretrainConfig(data="data", out=tmp_path / "run")) == name
    assert capsys.readouterr().out.startswith(f"recipe {name}: ")


def test_a_recipe_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    assert choose_recipe(PretrainConfig(data="nowhere", out=tmp_path, recipe="vitb16")) == "vitb16"


def test_a_run_goes_on_with_the_recipe_it_was_begun_with(
    tmp_path: Path, machine: Callable[[str, float, int], None]
) -> None:
    machine("cpu", 8, 100)
    begun = dataclasses.replace(recipe("demo"), recipe="demo", out=tmp_path / "run")
    RunFolder.open(tmp_path / "run", begun, "pretrain", ignore=NOT_COMPARED, force=False)
    asked = PretrainConfig(data="data", out=tmp_path / "run")
    assert choose_recipe(asked) == "demo"
    assert choose_recipe(dataclasses.replace(asked, force=True)) == "small-cpu"


@pytest.mark.parametrize("name", config.recipe_names())
def test_views_and_masks_of_a_recipe_fit_its_backbone(name: str) -> None:
    found = recipe(name)
    patch = found.backbone.patch or 16
    assert found.views.global_size % patch == 0
    assert found.views.local_size % patch == 0


@pytest.mark.parametrize("name", ["demo", "small-cpu"])
def test_a_small_recipes_network_is_built_and_its_cost_counted(name: str) -> None:
    found = recipe(name)
    network = Network(build(found.backbone, found.views.global_size), found.head, found.optim.drop_path)
    assert 1e8 < step_operations(network, found).nominal < 1e11


def test_photographs_are_counted_as_they_will_be_read(photographs: Photographs, foreign_shards: Foreign) -> None:
    assert count_photographs(str(photographs(["rosa/a.jpg", "rosa/b.jpg"]))) == 2
    splits = photographs(["train/a.jpg", "unlabeled/b.jpg", "test/c.jpg", "val/d.jpg"], "splits")
    assert count_photographs(str(splits)) == 2
    folder = foreign_shards(shards=1, count=3)
    foreign_shards(shards=1, count=2, split="unlabelled")
    foreign_shards(shards=1, count=4, split="test")
    assert count_photographs(str(folder)) == 5


def test_test_photographs_alone_are_nothing_to_pretrain_on(photographs: Photographs) -> None:
    with pytest.raises(UserError, match="photographs of test only; pretraining reads train and unlabeled"):
        count_photographs(str(photographs(["test/a.jpg"])))


def begin(source: Path, out: Path) -> tuple[PretrainConfig, RunFolder]:
    settings = resolve(dataclasses.replace(recipe("demo"), data=str(source), out=out, device="cpu"))
    return settings, RunFolder.open(out, settings, "pretrain", ignore=NOT_COMPARED, force=settings.force)


def test_photographs_become_shards_in_the_run_folder_once(photographs: Photographs, tmp_path: Path) -> None:
    settings, folder = begin(photographs(["rosa/a.jpg", "rosa/b.jpg"]), tmp_path / "run")
    first = pretraining_shards(settings, folder)
    state = (tmp_path / "run" / "shards" / "index.json").stat().st_mtime_ns
    again = pretraining_shards(settings, folder)
    assert len(first) == 2
    assert first.fingerprint() == again.fingerprint() == open_shards(str(tmp_path / "run" / "shards")).fingerprint()
    assert (tmp_path / "run" / "shards" / "index.json").stat().st_mtime_ns == state


def test_shards_are_read_where_they_lie(foreign_shards: Foreign, tmp_path: Path) -> None:
    settings, folder = begin(foreign_shards(), tmp_path / "run")
    assert len(pretraining_shards(settings, folder)) == 8
    assert not (tmp_path / "run" / "shards").exists()


def test_a_run_that_stopped_at_bad_photographs_begins_anew_when_they_and_its_shards_are_gone(
    photographs: Photographs, jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    """What the messages say helps; shards of other photographs are nobody's to delete unasked."""
    source = photographs({"a.jpg": jpeg(1), "b.jpg": jpeg(2), "bad.jpg": jpeg(3)[:100]})
    settings, folder = begin(source, tmp_path / "run")
    with pytest.raises(UserError, match=r"bad\.jpg"):
        pretraining_shards(settings, folder)
    (source / "bad.jpg").unlink()
    with pytest.raises(UserError, match=r"unfinished shards .* delete the folder"):
        pretraining_shards(settings, folder)
    shutil.rmtree(tmp_path / "run" / "shards")
    assert len(pretraining_shards(settings, folder)) == 2


def test_precision_is_resolved_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from umbel.ssl import pretrain

    monkeypatch.setattr(pretrain, "choose_precision", lambda *_: Choice(value="bf16", reason="pretended"))
    out = tmp_path / "run"
    begun = resolve(dataclasses.replace(recipe("demo"), out=out))
    assert (begun.device, begun.train.precision) == ("cpu", "bf16")
    RunFolder.open(out, begun, "pretrain", ignore=NOT_COMPARED, force=False)
    monkeypatch.setattr(pretrain, "choose_precision", lambda *_: Choice(value="float32", reason="pretended"))
    assert resolve(dataclasses.replace(recipe("demo"), out=out)).train.precision == "bf16"


def test_settings_that_may_change_exist() -> None:
    values = config.to_values(PretrainConfig(data="data", out=Path("run")))
    for name in NOT_COMPARED:
        found = values
        for part in name.split("."):
            found = found[part]
