"""Which recipe is chosen, what DATA may be, and that every shipped recipe builds what it describes."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from umbel import config
from umbel.backbones.build import build, check_size
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import open_shards
from umbel.machine import GIB, Choice
from umbel.run import UserError
from umbel.run_folder import RunFolder
from umbel.ssl import recipe_choice
from umbel.ssl.network import Network, check_backbone
from umbel.ssl.operations import step_operations
from umbel.ssl.pretrain import pretraining_shards, resolve
from umbel.ssl.pretrain_config import NOT_COMPARED, PretrainConfig
from umbel.ssl.recipe_choice import choose_recipe, count_photographs, patch_of

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
        ("cuda", 39.5, 2_000_000, "vits16"),
        ("cuda", 24, 2_000_000, "vits16"),
        ("cuda", 80, 30_000, "vits16"),
        ("cuda", 16, 2_000_000, "vits16-8gb"),
        ("cuda", 8, 30_000, "vits16-8gb"),
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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("init", "name"),
    [
        ("vit_small_patch14_dinov2.lvd142m", "dinov2-continue"),
        ("hf-hub:timm/vit_base_patch14_reg4_dinov2.lvd142m", "dinov2-continue"),
        ("files/dinov2_vitb14_reg4_pretrain.pth", "dinov2-continue"),
        ("vit_base_patch16_dinov3.lvd1689m", "dinov3-continue"),
        ("vitb16_plants.pth", "dinov3-continue"),
        ("something/else", "dinov3-continue"),
    ],
)
def test_weights_to_start_from_get_a_low_rate_and_views_that_fit_their_patches(
    device: str,
    init: str,
    name: str,
    machine: Callable[[str, float, int], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine(device, 80, 2_000_000)
    assert choose_recipe(PretrainConfig(data="data", out=tmp_path / "run", init=init)) == name
    patch = 14 if name == "dinov2-continue" else 16
    assert f"recipe {name}: weights to start from want a low learning rate, and patches of {patch} px" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("patch", [8, 14])
def test_patches_of_a_folder_are_those_of_its_config(patch: int, tmp_path: Path) -> None:
    arguments = {"patch_size": patch, "embed_dim": 8, "depth": 1, "num_heads": 1}
    card = ModelCard(
        architecture="vit_tiny_patch16_224",
        arguments=arguments,
        image_size=56,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        num_features=8,
    )
    write_timm_folder(tmp_path / "run" / "checkpoints" / "step-00000001" / "backbone", {}, card)
    (tmp_path / "run" / "checkpoints" / "step-00000001" / "backbone" / "model.safetensors").touch()
    assert patch_of(str(tmp_path / "run")) == patch
    by_name = dataclasses.replace(card, arguments={})
    write_timm_folder(tmp_path / "folder", {}, by_name)
    assert patch_of(str(tmp_path / "folder")) == 16
    with pytest.raises(UserError, match="neither a run nor a folder"):
        patch_of(str(tmp_path))


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


def first_network(found: PretrainConfig) -> Network:
    """The network that a recipe trains, without weights; what would be downloaded is not."""
    with torch.device("meta"):
        if found.init is None:
            backbone = build(found.backbone, found.views.global_size)
        else:
            backbone = timm.create_model(found.init.split(".")[0], num_classes=0, dynamic_img_size=True)
    masking, weight = found.masks.views, found.loss.patch_weight
    check_backbone(backbone, name="x", drop_path=found.optim.drop_path, masked_views=masking, patch_weight=weight)
    with torch.device("meta"):
        return Network(backbone, found.head, found.optim.drop_path, masking=masking > 0)


@pytest.mark.parametrize("name", config.recipe_names())
def test_a_recipes_network_is_built_and_its_views_fit(name: str) -> None:
    found = recipe(name)
    network = first_network(found)
    check_size(network.backbone, "global", found.views.global_size)
    check_size(network.backbone, "local", found.views.local_size)
    if found.init is None:
        return
    # Weights to start from must be there to be fetched.
    assert found.init in timm.list_models(pretrained=True)


@pytest.mark.parametrize("name", config.recipe_names())
def test_a_recipes_command_asks_for_it_and_its_flags_exist(name: str) -> None:
    text = (Path(config.__file__).parent / "recipes" / f"{name}.yaml").read_text()
    opening = "\n".join(line.removeprefix("#") for line in text.splitlines() if line.startswith("#"))
    command = re.search(r"umbel pretrain ([^\n;]*)", opening.replace("\\\n", " "))
    assert command is not None
    asked = config.parse(PretrainConfig, command[1].split(), prog="umbel pretrain", help="")
    assert asked.recipe == name
    assert dataclasses.replace(asked, init=None) == dataclasses.replace(
        recipe(name), data=asked.data, out=asked.out, recipe=name, init=None
    )
    # And those that the text recommends.
    for flag in re.findall(r"--((?:views|train|loss|optim)[.][a-z.-]*[a-z])", opening):
        assert f"--{flag}" in OPTIONS, flag


OPTIONS = {
    f"--{section}.{negation}{field.replace('_', '-')}"
    for section, values in config.to_values(PretrainConfig(data="data", out=Path("run"))).items()
    if isinstance(values, dict)
    for field in values
    for negation in ("", "no-")
}


PAPER = {"paper/vitb16": "vit_base_patch16_224", "paper/vitl16": "vit_large_patch16_224"}


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_recipe_says_every_setting_as_the_paper_has_it(name: str) -> None:
    """Written out, so that no default of ours can move them; the values are the specification's table."""
    said = config.read_recipe(name, "pretrain")
    everything = config.to_values(PretrainConfig(data="data", out=Path("run")))
    for section in ("head", "views", "masks", "loss", "optim"):
        assert set(everything[section]) == set(said[section]), section
    assert said["backbone"] == {"name": PAPER[name], "registers": 4, "layer_scale": 0.1}
    assert said["head"] == {"hidden": 2048, "width": 256}
    assert said["views"]["policy"] == "plant-paper"
    assert (said["views"]["global_size"], said["views"]["local_size"], said["views"]["local_views"]) == (224, 96, 10)
    assert (said["views"]["global_area"], said["views"]["local_area"]) == ([0.4, 1.0], [0.05, 0.4])
    assert said["views"]["aspect"] == [3 / 4, 4 / 3]
    assert said["masks"] == {"views": 0.5, "ratio": [0.1, 0.5], "smallest_block": 4, "aspect": 0.3}
    assert said["loss"]["covariance"] == "local"
    assert said["loss"]["center_with_teacher"] is True
    assert [said["loss"][key] for key in ("eps", "coeff", "patch_weight")] == [0.05, 1.0, 1.0]
    optim = {
        "learning_rate": 0.004, "floor": 1e-6, "warmup_epochs": 10.0, "weight_decay": [0.04, 0.4],
        "teacher_momentum": [0.9, 1.0], "layer_decay": 0.9, "patch_embed_multiplier": 0.2, "clip": 3.0,
        "drop_path": 0.2, "betas": [0.9, 0.999],
    }  # fmt: skip
    assert said["optim"] == optim
    train = said["train"]
    assert (train["batch"], train["accumulation"], train["epochs"]) == (128, 1, 100.0)
    # A copy to evaluate every 10 epochs of iNaturalist 2021's plants.
    epoch = 1_148_702 // 1024
    assert (train["save_every"], train["keep_every"]) == (epoch, 10 * epoch)


def test_recipes_for_several_nodes_keep_the_global_batch_of_one() -> None:
    for name in ("vitb16", "vitl16"):
        one, four = recipe(name), recipe(f"{name}-4nodes")
        assert 8 * one.train.batch == 32 * four.train.batch == 1024
        same = dataclasses.replace(one.train, batch=four.train.batch, activation_checkpointing=False)
        assert dataclasses.replace(one, train=same) == four


def test_the_recipe_for_8_gib_is_vits16_but_for_memory() -> None:
    small, usual = recipe("vits16-8gb"), recipe("vits16")
    assert dataclasses.replace(usual, train=dataclasses.replace(usual.train, activation_checkpointing=True)) == small


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
    from umbel.ssl import opening

    monkeypatch.setattr(opening, "choose_precision", lambda *_: Choice(value="bf16", reason="pretended"))
    out = tmp_path / "run"
    begun = resolve(dataclasses.replace(recipe("demo"), out=out))
    assert (begun.device, begun.train.precision) == ("cpu", "bf16")
    RunFolder.open(out, begun, "pretrain", ignore=NOT_COMPARED, force=False)
    monkeypatch.setattr(opening, "choose_precision", lambda *_: Choice(value="float32", reason="pretended"))
    assert resolve(dataclasses.replace(recipe("demo"), out=out)).train.precision == "bf16"


def test_settings_that_may_change_exist() -> None:
    values = config.to_values(PretrainConfig(data="data", out=Path("run")))
    for name in NOT_COMPARED:
        found = values
        for part in name.split("."):
            found = found[part]
