"""`umbel probe --sensitivity --efficiency`: keys of the JSON, pictures beside it, and what is refused at once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from umbel.backbones import load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.config import parse
from umbel.evaluation import efficiency as costs
from umbel.evaluation import embed
from umbel.evaluation.extract import open_data
from umbel.evaluation.probe import ProbeConfig, run
from umbel.evaluation.sensitivity import sensitivity
from umbel.evaluation.sensitivity_operations import changes
from umbel.run import UserError

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8)
COLORS = {"aconitum": (90, 60, 160), "bellis": (230, 230, 210)}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs.efficiency, "__kwdefaults__", costs.efficiency.__kwdefaults__ | {"seconds": 0.0})


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    card = ModelCard(
        architecture=TINY.name,
        arguments=model_arguments(TINY, 16),
        image_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        num_features=16,
    )
    write_timm_folder(tmp_path / "backbone", build(TINY, 16).state_dict(), card)
    return tmp_path / "backbone"


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name, color in COLORS.items():
        folder = tmp_path / "flowers" / name
        folder.mkdir(parents=True)
        for number in range(4):
            image = np.array(color) + generator.integers(-40, 40, (24, 24, 3))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "flowers"


def umbel_probe(*arguments: object) -> None:
    common = ["--shots", "2", "--draws", "2", "--no-baselines", "--workers", "0", "--device", "cpu"]
    run(parse(ProbeConfig, [*map(str, arguments), *common], prog="umbel probe", help="Measure frozen features"))


def test_both_go_into_the_json_and_pictures_beside_it(
    backbone: Path, flowers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "tiny.json"
    both = ["--data", flowers, "--sensitivity", "--sensitivity-photographs", 4, "--efficiency", "--seed", 3, "--out"]
    umbel_probe(backbone, *both, out)
    said = capsys.readouterr().out
    told = json.loads(out.read_text())
    assert [(one["operation"], one["label"]) for one in told["sensitivity"]["moved"]] == [
        (change.operation, change.label) for change in changes()
    ]
    assert told["sensitivity"]["photographs"] == 4
    assert told["sensitivity"]["source"] == told["efficiency"]["source"] == f"folder {backbone}"
    shards = open_data(str(flowers), tmp_path / "shards", 16, workers=0)
    alone = sensitivity(load(backbone), shards, photographs=4, seed=3, device="cpu", asked=changes()[:1])
    assert told["sensitivity"]["between_species"] == alone.between_species
    assert told["efficiency"]["image_size"] == 16
    assert [one["batch"] for one in told["efficiency"]["latency"]] == [1, 32]
    assert "from mild to strong" in said
    assert "Farthest: " in said
    assert "GMAC at 16 px (FLOPs: twice as many)" in said
    assert "one backbone is no picture of costs" in said
    assert sorted(path.name for path in out.parent.iterdir()) == ["tiny.json", "tiny.sensitivity.png"]
    # Of embeddings, the backbone that made them; and with two results there is a picture.
    embed.run(
        parse(
            embed.EmbedConfig,
            [str(backbone), "--data", str(flowers), "--out", str(tmp_path / "embedded"), "--workers", "0"],
            prog="umbel embed",
            help="Embed photographs",
        )
    )
    umbel_probe(tmp_path / "embedded", "--efficiency", "--seed", 3, "--out", out.with_name("again.json"))
    assert f"{out.with_name('again.efficiency.png')}: 2 backbones." in capsys.readouterr().out
    again = json.loads(out.with_name("again.json").read_text())
    assert "sensitivity" not in again
    assert again["efficiency"]["multiply_adds"] == told["efficiency"]["multiply_adds"]
    with Image.open(out.with_name("again.efficiency.png")) as image:
        assert image.width > 500


def test_without_the_flags_there_is_neither(backbone: Path, flowers: Path, tmp_path: Path) -> None:
    umbel_probe(backbone, "--data", flowers, "--out", tmp_path / "plain.json")
    assert not {"sensitivity", "efficiency"} & {*json.loads((tmp_path / "plain.json").read_text())}
    assert not list(tmp_path.glob("*.png"))


def test_what_cannot_be_measured_is_answered_at_once(
    backbone: Path, flowers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.sensitivity.png").write_text("mine")
    wrong = {
        "--sensitivity changes photographs: give them as --data.": [backbone, "--sensitivity"],
        "is no sheet of Umbel's": [backbone, "--data", flowers, "--sensitivity", "--out", tmp_path / "mine.json"],
        "backbone 'nothing' is neither": ["nothing", "--data", flowers, "--efficiency"],
    }
    for words, arguments in wrong.items():
        with pytest.raises(UserError, match=words):
            umbel_probe(*arguments)
    assert "embedding" not in capsys.readouterr().err
    assert (tmp_path / "mine.sensitivity.png").read_text() == "mine"
