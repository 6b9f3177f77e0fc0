"""`umbel probe` with everything that can be asked for: genera and organs, other backbones, all probes, a suite."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.config import parse
from umbel.data.sources.listed import MakeCsvConfig, MakeMetaAlbumConfig, make_csv, make_meta_album
from umbel.evaluation import embed, suite
from umbel.evaluation.fewshot import nearest_centroid
from umbel.evaluation.probe import ProbeConfig, run
from umbel.evaluation.reading import ReadConfig, read_as
from umbel.evaluation.suite import read_suite, run_suite
from umbel.run import UserError

COLORS = {"Bellis annua": (230, 230, 210), "Bellis perennis": (210, 230, 220), "Crocus vernus": (180, 90, 40)}
ORGANS = ("flower", "leaf")


def write_backbone(folder: Path, *, seed: int = 3, side: int = 16) -> Path:
    torch.manual_seed(seed)
    config = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8)
    card = ModelCard(
        architecture=config.name,
        arguments=model_arguments(config, side),
        image_size=side,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        num_features=16,
    )
    write_timm_folder(folder, build(config, side).state_dict(), card)
    return folder


def paint(path: Path, color: tuple[int, ...], generator: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.array(color) + generator.integers(-40, 40, (24, 24, 3))
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def plants(tmp_path: Path) -> Path:
    """Shards of three species in two genera, with organs; the third species is the most frequent."""
    generator, rows = np.random.default_rng(0), []
    for split, count in (("train", 8), ("test", 10)):
        for label, (name, color) in enumerate(COLORS.items()):
            for number in range(count + 2 * label * (split == "train")):
                path = f"{split}-{label}-{number}.png"
                paint(tmp_path / "photos" / path, color, generator)
                genus = name.split()[0]
                rows.append(
                    (path, name, split, genus, "Iridaceae" if genus == "Crocus" else "Asteraceae", ORGANS[number % 2])
                )
    with (tmp_path / "photos" / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "class", "split", "genus", "family", "organ"), *rows])
    make_csv(MakeCsvConfig(data=tmp_path / "photos" / "list.csv", out=tmp_path / "shards", workers=1))
    return tmp_path / "shards"


def umbel_probe(*arguments: object) -> dict[str, Any]:
    out = Path(str(arguments[0])).parent / "probe.json"
    words = [*map(str, arguments), "--workers", "0", "--device", "cpu", "--out", str(out)]
    run(parse(ProbeConfig, words, prog="umbel probe", help="Measure frozen features"))
    told: dict[str, Any] = json.loads(out.read_text())
    return told


def estimates(thing: Any) -> list[dict[str, float]]:
    """Every estimate in a part of the file."""
    if isinstance(thing, dict):
        found = [thing] if set(thing) == {"value", "low", "high"} else []
        return found + [one for part in thing.values() for one in estimates(part)]
    return [one for part in thing for one in estimates(part)] if isinstance(thing, list) else []


def test_everything_at_once(plants: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = write_backbone(tmp_path / "first"), write_backbone(tmp_path / "other", seed=4)
    told = umbel_probe(
        first, "--data", plants, "--against", other, "--shots", 2, 4, "--draws", 3, "--knn", 3, "--episodes", 5,
        "--ways", 3, "--probes", "episodes", "logistic", "linear", "open-set", "label-free",
    )  # fmt: skip
    said = capsys.readouterr().out
    names = ["pretrained backbone", str(other), "color histogram", "raw pixels", "untrained backbone"]
    assert [row["name"] for row in told["rows"]] == names
    assert told["absent"] == []
    assert told["protocol"]["all_shots"] == [2, 4]
    assert told["protocol"]["shots"] == 2
    for row in told["rows"]:
        assert [found["shots"] for found in row["centroid"]] == [2, 4]
        assert row["centroid"][0]["micro"]["value"] == row["mean"]
        assert row["centroid"][0]["deviation"] == pytest.approx(np.std(row["accuracies"]))
        # With as many queries of every species micro and macro are the same.
        assert row["centroid"][1]["macro"]["value"] == pytest.approx(row["centroid"][1]["micro"]["value"])
        weighted = row["nearest"]["weighted"]
        assert [(group["name"], group["count"]) for group in weighted["organ"]] == [("flower", 15), ("leaf", 15)]
        assert [group["name"] for group in weighted["frequency"]] == ["head", "middle", "tail"]
        assert weighted["taxonomy"]["levels"] == ["genus", "family"]
        assert weighted["taxonomy"]["genus"]["value"] >= weighted["micro"]["value"]
        assert [entry["support"] for entry in weighted["classes"]] == [8, 10, 12]
        assert sum(entry["count"] for entry in weighted["classes"]) == 30
        assert row["episodes"][0] | {"accuracy": 0} == {
            "ways": 3, "shots": 2, "queries": 10, "episodes": 5, "accuracy": 0,
        }  # fmt: skip
        for kind, setting in (("logistic", "strength"), ("linear", "learning_rate")):
            assert row[kind]["tried"][str(row[kind][setting])] == max(row[kind]["tried"].values())
            assert row[kind]["count"] == 30
            assert row[kind]["top5"] is None  # there are three species
        assert [found["score"] for found in row["open_set"]] == ["centroid", "nearest neighbor"]
        assert ("alignment" in row["label_free"]) == (row["name"] in names[:2])
    everything = estimates(told)
    assert len(everything) > 100
    assert all(one["low"] <= one["value"] <= one["high"] for one in everything)
    pairs = [(one["first"], one["second"], one["measure"]) for one in told["comparisons"]]
    measures = ("2-shot accuracy", "3-NN accuracy")
    assert pairs == [(names[0], name, measure) for name in names[1:] for measure in measures]
    few = told["comparisons"][0]
    assert few["difference"]["value"] == pytest.approx(told["rows"][0]["mean"] - told["rows"][1]["mean"])
    assert all(one["verdict"] in said for one in told["comparisons"])
    for words in ("linear probe", "accepted at 95 % recall", "RankMe, of 16", "alignment", "k-NN by organ", "genus"):
        assert words in said
    # A color tells a crocus from a daisy, and hardly one daisy from the other.
    color = told["rows"][2]["logistic"]
    assert color["taxonomy"]["genus"]["value"] > 0.9


def test_what_is_missing_gets_a_sentence(plants: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_backbone(tmp_path / "first")
    words = [str(first), "--data", str(plants), "--out", str(tmp_path / "e"), "--workers", "0", "--device", "cpu"]
    embed.run(parse(embed.EmbedConfig, words, prog="umbel embed", help="Embed photographs"))
    told = umbel_probe(tmp_path / "e", "--shots", 2, "--draws", 2, "--probes", "label-free", "open-set")
    assert [sentence.split(" ", 6)[:6] for sentence in told["absent"]] == [
        ["without", "--data", "nothing", "is", "told", "by"],
        ["without", "--data", "there", "is", "no", "alignment:"],
    ]
    assert told["rows"][0]["nearest"]["weighted"]["taxonomy"] is None
    assert told["rows"][0]["nearest"]["weighted"]["organ"] == []
    # Against itself, stored: the very same answers.
    same = umbel_probe(
        tmp_path / "e", "--against", first, "--data", plants, "--no-baselines", "--shots", 2, "--draws", 2
    )
    assert [one["difference"]["value"] for one in same["comparisons"]] == [0, 0]
    assert all(one["verdict"].startswith("no difference") for one in same["comparisons"])
    assert same["rows"][0]["nearest"]["weighted"]["taxonomy"]["levels"] == ["genus", "family"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"shots": (5, 5)}, "shots must be different numbers"),
        ({"episodes": 1}, "episodes must be at least 2, not 1"),
        ({"ways": 1}, "ways must be at least 2, not 1"),
        ({"against": ("x",)}, "against must name other backbones, each once, not x"),
        ({"against": ("y", "y")}, "against must name other backbones, each once, not y y"),
        ({"suite": "meta-album-plants"}, "suite and suite_data go together"),
        ({"suite": "s", "suite_data": Path("."), "data": "d"}, "suite has its own data"),
    ],
)
def test_settings_that_do_not_fit(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ProbeConfig(backbone="x", **wrong)


def test_a_suite_by_the_papers_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, generator = write_backbone(tmp_path / "first", side=224), np.random.default_rng(0)
    for name in ("PLT_NET", "MED_LF"):
        rows = []
        for kind, color in COLORS.items():
            for number in range(7):
                file = f"{kind.split()[1]}-{number}.png"
                paint(tmp_path / name / "images" / file, color, generator)
                rows.append((file, kind))
        with (tmp_path / name / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("FILE_NAME", "CATEGORY"), *rows])
        out = tmp_path / "suite" / name
        make_meta_album(MakeMetaAlbumConfig(data=tmp_path / name, out=out, workers=1))
    seen: list[np.ndarray] = []

    def watch(features: np.ndarray, labels: np.ndarray, **settings: Any) -> np.ndarray:
        seen.append(nearest_centroid(features, labels, shots=5, draws=5, seed=0))
        assert settings == {"shots": 5, "draws": 5, "seed": 0}
        return seen[-1]

    monkeypatch.setattr(suite, "nearest_centroid", watch)
    told = umbel_probe(backbone, "--suite", "meta-album-plants", "--suite-data", tmp_path / "suite")
    said = capsys.readouterr().out
    assert [found["name"] for found in told["sets"]] == ["PLT_NET", "MED_LF"]
    for found, accuracies in zip(told["sets"], seen, strict=True):
        assert found["accuracies"] == accuracies.tolist()
        assert found["deviation"] == pytest.approx(np.sqrt(((accuracies - accuracies.mean()) ** 2).mean()))
        assert (found["photographs"], found["classes"]) == (21, 3)
        assert f"{100 * accuracies.mean():.1f} ± {100 * accuracies.std():.1f}" in said
    assert "published: SimDINOv2 ViT-B/16 87.9 ± 0.7 97.8 ± 0.7" in re.sub(" +", " ", said)
    assert len(told["absent"]) == 2
    assert f"`umbel shards make meta-album PATH/PLT_VIL_Mini --out {tmp_path / 'suite' / 'PLT_VIL'}`" in said
    with pytest.raises(UserError, match=r"PLT_NET is not in .*Meta-Album.*PLT_DOC is not in"):
        run_suite("meta-album-plants", tmp_path / "nowhere", str(backbone), device="cpu")
    with pytest.raises(UserError, match="there is no suite 'meta'; there are: meta-album-plants"):
        read_suite("meta")


def test_the_papers_reading_squashes_and_takes_the_class_token(tmp_path: Path) -> None:
    from umbel.backbones import load

    backbone = load(str(write_backbone(tmp_path / "first", side=224)))
    reading = read_as(backbone, ReadConfig(protocol="paper"))
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(reading.model(x), backbone.model.forward_features(x)[:, 0])
    # Left half black, right half white, twice as wide as high: squashed, the border stays in the middle.
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    image[:, 100:] = 255
    seen = reading.transform(Image.fromarray(image))
    assert seen.shape == (3, 224, 224)
    mean, std = np.array([0.429, 0.459, 0.328]), np.array([0.221, 0.215, 0.221])
    np.testing.assert_allclose(seen[:, 0, 0].numpy(), -mean / std, atol=1e-5)
    np.testing.assert_allclose(seen[:, 0, 120].numpy(), (1 - mean) / std, atol=1e-5)
    assert float(seen[0, 0, 105]) == pytest.approx(-mean[0] / std[0], abs=1e-3)


def test_published_figures_are_those_of_the_paper() -> None:
    told = read_suite("meta-album-plants")
    assert (told.shots, told.folds, told.sets) == (5, 5, ("PLT_NET", "PLT_VIL", "MED_LF", "PLT_DOC"))
    assert told.published["SimDINOv2 ViT-L/16"]["PLT_DOC"] == (49.0, 1.1)
    assert told.published["SimDINOv2 ViT-B/16"]["PLT_VIL"] == (85.4, 0.5)
