"""`umbel probe`: the table from a backbone and from stored embeddings, who supports and who asks, faults at once."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from umbel.backbones import Backbone
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.config import parse
from umbel.evaluation import embed
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.estimates import Estimate
from umbel.evaluation.fewshot import interval, nearest_centroid
from umbel.evaluation.knn import vote
from umbel.evaluation.probe import ProbeConfig, probe, probe_features, run, table
from umbel.evaluation.probe_rows import divide, measure
from umbel.evaluation.probe_settings import ProbeSettings
from umbel.run import UserError

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8)
ROWS = ["pretrained backbone", "color histogram", "raw pixels", "untrained backbone"]
COLORS = {"aconitum": (90, 60, 160), "bellis": (230, 230, 210), "crocus": (180, 90, 40)}


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
    """Class folders over splits: noise around a color of each species, so that color alone tells them apart."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3), ("test", 4)):
        for name, color in COLORS.items():
            folder = tmp_path / "flowers" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = np.array(color) + generator.integers(-25, 25, (24, 24, 3))
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "flowers"


def umbel_probe(*arguments: object) -> None:
    words = [*map(str, arguments), "--workers", "0", "--device", "cpu"]
    run(parse(ProbeConfig, words, prog="umbel probe", help="Measure frozen features"))


def umbel_embed(*arguments: object) -> None:
    words = [*map(str, arguments), "--workers", "0", "--device", "cpu"]
    embed.run(parse(embed.EmbedConfig, words, prog="umbel embed", help="Embed photographs"))


def make(splits: dict[str, list[int]], *, width: int = 4, signal: float = 3) -> Embeddings:
    """Random features with some signal of the class: split -> labels."""
    label = np.array([label for labels in splits.values() for label in labels], dtype=np.int64)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(len(label), width)) + signal * np.eye(width)[label % width]
    return Embeddings(
        features=features.astype(np.float32),
        label=label,
        split=np.repeat(np.arange(len(splits)), [len(labels) for labels in splits.values()]),
        keys=tuple(f"k{number}" for number in range(len(label))),
        splits=tuple(splits),
        classes=("aconitum", "bellis", "crocus"),
    )


SETTINGS: dict[str, Any] = {"shots": 2, "draws": 5, "seed": 0, "k": 3}


def test_the_table_has_a_row_for_each_kind_of_features(
    backbone: Path, flowers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "probe.json"
    umbel_probe(backbone, "--data", flowers, "--shots", 2, "--draws", 6, "--knn", 3, "--out", out)
    said = capsys.readouterr().out
    assert "24 support photographs, 12 queries: train and val are the support, test the queries." in said
    told = json.loads(out.read_text())
    assert [row["name"] for row in told["rows"]] == ROWS
    head, *lines = said.split("the queries.\n")[1].splitlines()[:5]
    assert re.split(r"  +", head) == ["features", "2-shot centroid, 6 draws", "3-NN weighted", "plain"]
    for line, row in zip(lines, told["rows"], strict=True):
        mean, half = f"{100 * row['mean']:.1f}", f"{100 * row['interval']:.1f}"
        votes = [str(Estimate(**row["nearest"][kind]["micro"])) for kind in ("weighted", "plain")]
        cells = [f"{mean} ± {half} %", *votes]
        assert [row["nearest"][kind]["micro"]["value"] for kind in ("weighted", "plain")] == [
            row["knn"],
            row["knn_plain"],
        ]
        assert re.split(r"  +", line) == [row["name"], *cells]
        assert len(row["accuracies"]) == 6
        assert (row["mean"], row["interval"]) == interval(row["accuracies"])
    # Color tells these species apart, and the table says so.
    assert told["rows"][1]["mean"] == told["rows"][1]["knn"] == 1
    assert told["photographs"] == {"support": 24, "queries": 12}
    assert told["provenance"]["backbone"]["sha256"]


def test_the_untrained_row_is_of_fresh_weights(backbone: Path, flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, np.ndarray] = {}

    def watch(backbone: Backbone, *arguments: Any, **settings: Any) -> Embeddings:
        made = embed.embed(backbone, *arguments, **settings)
        seen[backbone.source] = made.features
        return made

    monkeypatch.setattr("umbel.evaluation.probe_sources.embed", watch)
    umbel_probe(backbone, "--data", flowers, "--shots", 2, "--draws", 2)
    trained, fresh = seen.values()
    assert list(seen) == [f"folder {backbone}", "untrained vit_tiny_patch16_224"]
    assert not np.allclose(trained, fresh)


def test_json_has_standard_output_for_itself(backbone: Path, flowers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    umbel_probe(backbone, "--data", flowers, "--shots", 2, "--draws", 2, "--json", "--no-baselines")
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["rows"]] == ROWS[:1]
    assert told["protocol"]["shots"] == 2
    assert told["rows"][0]["k"] == 20


def test_stored_embeddings_give_the_same_rows(backbone: Path, flowers: Path, tmp_path: Path) -> None:
    common = ["--shots", 2, "--draws", 4, "--knn", 3, "--out", tmp_path / "probe.json"]

    def rows(*arguments: object) -> list[tuple[Any, ...]]:
        umbel_probe(*arguments, *common)
        found = json.loads((tmp_path / "probe.json").read_text())["rows"]
        return [(row["name"], row["accuracies"], row["knn"], row["knn_plain"]) for row in found]

    fresh = rows(backbone, "--data", flowers)
    umbel_embed(backbone, "--data", flowers, "--out", tmp_path / "e")
    assert rows(tmp_path / "e") == fresh[:1]
    # Embeddings follow the shards' order, which is the same in both.
    assert rows(tmp_path / "e", "--data", tmp_path / "e" / "shards") == fresh
    (backbone / "config.json").unlink()
    assert rows(tmp_path / "e", "--data", flowers) == fresh[:3]


def test_baselines_of_other_photographs_are_refused(
    backbone: Path, flowers: Path, photographs: Callable[..., Path], tmp_path: Path
) -> None:
    umbel_embed(backbone, "--data", flowers, "--out", tmp_path / "e")
    other = photographs([f"{name}/{n}.jpg" for name in "ab" for n in range(4)])
    with pytest.raises(UserError, match="color histogram are of other photographs"):
        umbel_probe(tmp_path / "e", "--data", other, "--shots", 2, "--draws", 2)


def test_embeddings_of_exchanged_photographs_are_refused(backbone: Path, flowers: Path, tmp_path: Path) -> None:
    """Keys are alike: they come from the files' names."""
    umbel_embed(backbone, "--data", flowers, "--out", tmp_path / "e")
    for file in flowers.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(file))[:20]).save(file)
    umbel_embed(backbone, "--data", flowers, "--out", tmp_path / "other")
    for more in (["--against", tmp_path / "other"], ["--data", tmp_path / "other" / "shards"]):
        with pytest.raises(UserError, match=r"e and .*other.* are of other photographs"):
            umbel_probe(tmp_path / "e", *more, "--shots", 2, "--draws", 2)


def test_embeddings_with_other_labels_are_refused() -> None:
    first = make({"train": [0, 0, 0, 1, 1, 1], "test": [0, 1]})
    for other in (
        dataclasses.replace(first, label=1 - first.label),
        dataclasses.replace(first, split=1 - first.split),
    ):
        with pytest.raises(UserError, match="features of the b have other labels or splits"):
            probe({"a": first, "b": other}, **SETTINGS)
    # The order in which splits are named is no difference.
    renamed = dataclasses.replace(first, split=1 - first.split, splits=("test", "train"))
    a, b = probe({"a": first, "b": renamed}, **SETTINGS)
    assert a.accuracies == b.accuracies


def test_embeddings_that_were_read_otherwise_are_refused_or_told(
    backbone: Path, flowers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    umbel_embed(backbone, "--data", flowers, "--out", tmp_path / "e")
    umbel_embed(backbone, "--data", flowers, "--out", tmp_path / "mean", "--tokens", "mean")
    few = ["--shots", 2, "--draws", 2]
    with pytest.raises(UserError, match="e are of --tokens pooled at the backbone's size, not of --protocol paper"):
        umbel_probe(tmp_path / "e", "--protocol", "paper", *few)
    capsys.readouterr()
    umbel_probe(tmp_path / "mean", "--tokens", "mean", *few)
    assert "not read alike" not in capsys.readouterr().out
    umbel_probe(tmp_path / "mean", "--against", tmp_path / "e", *few)
    assert "these features are not read alike" in capsys.readouterr().out
    umbel_probe(tmp_path / "mean", "--against", backbone, "--data", tmp_path / "mean" / "shards", *few)
    assert "the backbones by --tokens pooled" in capsys.readouterr().out


def test_rows_are_the_protocols_on_train_and_val_against_test() -> None:
    e = make({"test": [0, 1, 2, 2], "train": [0, 0, 1, 2, 2], "unlabeled": [-1, -1], "val": [0, 1, 1, 2, -1]})
    row = probe({"random": e}, **SETTINGS)[0]
    asked, given = slice(0, 4), [4, 5, 6, 7, 8, 11, 12, 13, 14]
    queries: Any = {"queries": e.features[asked], "query_labels": e.label[asked]}
    want = nearest_centroid(e.features[given], e.label[given], shots=2, draws=5, seed=0, **queries)
    votes = vote(e.features[given], e.label[given], queries=e.features[asked], k=3)
    assert row.accuracies == want.tolist()
    assert (row.mean, row.interval) == interval(want)
    assert (row.knn, row.knn_plain) == votes.accuracy(e.label[asked])
    assert (row.name, row.shots, row.draws, row.k, row.left_out) == ("random", 2, 5, 3, [])


@pytest.mark.parametrize("splits", [{"train": [0, 1, 2] * 3}, {"test": [0, 1, 2] * 3}, {"all": [0, 1, 2] * 3}])
def test_without_support_or_queries_the_rest_is_asked(splits: dict[str, list[int]]) -> None:
    e = make(splits)
    assert divide(e)[1] is None
    row = probe({"random": e}, **SETTINGS)[0]
    assert row.accuracies == nearest_centroid(e.features, e.label, shots=2, draws=5, seed=0).tolist()
    assert (row.knn, row.knn_plain) == vote(e.features, e.label, k=3).accuracy(e.label)


def test_draws_are_paired_between_kinds_of_features() -> None:
    e = make({"train": [0, 1, 2] * 6}, signal=1)
    first, second = probe({"a": e, "b": e}, **SETTINGS)
    assert first.accuracies == second.accuracies
    assert len(set(first.accuracies)) > 1


def test_queries_that_no_neighbor_can_hit_do_not_count() -> None:
    """Alone, class 2 has no neighbor of its own; as a query of a class without support neither."""
    x = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 1]])
    y = np.array([0, 0, 1, 1, 2])
    row = probe_features("x", x, y, None, None, shots=1, draws=2, seed=0, k=1)
    assert (row.knn, row.knn_plain, row.left_out) == (1, 1, [2])
    row = probe_features("x", x[:4], y[:4], x[3:], y[3:], shots=1, draws=2, seed=0, k=1)
    assert (row.knn, row.knn_plain, row.left_out) == (1, 1, [2])


def test_the_table_by_hand() -> None:
    e = make({"train": [0, 0, 1, 1]}, width=2)
    e = dataclasses.replace(e, features=np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]], dtype=np.float32))
    settings = ProbeSettings(shots=(1,), draws=3, seed=0, k=1)
    head, line = table(measure({"two colors": e}, settings)).splitlines()
    assert head == "features    1-shot centroid, 3 draws            1-NN weighted                    plain"
    # Wilson's interval of 4 of 4: 4 / (4 + 1.96^2) = 51.0 %.
    assert line == "two colors             100.0 ± 0.0 %  100.0 (51.0 to 100.0) %  100.0 (51.0 to 100.0) %"


def test_small_classes_are_named(
    backbone: Path, flowers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for photograph in (flowers / "train" / "bellis").iterdir():
        photograph.unlink()
    umbel_probe(backbone, "--data", flowers, "--shots", 4, "--draws", 2, "--no-baselines")
    assert "too small for 4 shots, left out: bellis" in capsys.readouterr().out


def test_an_older_result_is_replaced_and_a_stranger_refused(backbone: Path, flowers: Path, tmp_path: Path) -> None:
    out = tmp_path / "probe.json"
    common = [backbone, "--data", flowers, "--draws", 2, "--no-baselines", "--out", out]
    umbel_probe(*common, "--shots", 1)
    umbel_probe(*common, "--shots", 2)
    assert json.loads(out.read_text())["protocol"]["shots"] == 2
    for text in ("mine", '{"format": 1}', "[1]"):
        out.write_text(text)
        with pytest.raises(UserError, match=r"probe.json is no result of `umbel probe`: choose another --out\."):
            umbel_probe(*common)
        assert out.read_text() == text


@pytest.mark.parametrize(
    ("setting", "least"), [("shots", 1), ("draws", 2), ("knn", 1), ("seed", 0), ("batch", 1), ("workers", -1)]
)
def test_settings_have_a_lower_bound(setting: str, least: int) -> None:
    wrong: dict[str, Any] = {setting: least - 1}
    right: dict[str, Any] = {setting: least}
    if setting == "shots":
        wrong, right = {setting: (0,)}, {setting: (1, 5)}
    assert ProbeConfig(backbone="x", **right)
    with pytest.raises(ValueError, match=f"{setting} must be at least {least}, not {least - 1}"):
        ProbeConfig(backbone="x", **wrong)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["backbone"], "is no folder of embeddings: give the photographs as --data."),
        (["nothing", "--data", "flowers"], "backbone 'nothing' is neither"),
        (["backbone", "--data", "nowhere"], "nowhere does not exist"),
        (["backbone", "--data", "flat"], "have no labels"),
        (["backbone", "--data", "flowers", "--shots", "9"], "0 of 3 classes have images enough for 9 shots"),
        (["backbone", "--data", "unlabeled"], "no shard is of split train or val or test"),
    ],
)
def test_what_cannot_be_probed_is_answered_before_anything_is_embedded(
    arguments: list[str],
    words: str,
    backbone: Path,
    flowers: Path,
    photographs: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photographs(["a.jpg", "b.jpg"], folder="flat")
    photographs(["unlabeled/a.jpg"], folder="unlabeled")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        umbel_probe(*arguments)
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert "embedding photographs" not in capsys.readouterr().err
