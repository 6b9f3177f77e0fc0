"""`umbel embed`: features equal to the backbone's own, stored with their origin; restarts, damage and strangers."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from umbel.backbones import load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.config import parse
from umbel.data import unreadable
from umbel.data.index import open_shards
from umbel.data.reader import ShardReader
from umbel.evaluation.embed import EmbedConfig, embed, run, weights_sha256
from umbel.evaluation.embeddings import Embeddings
from umbel.run import UserError

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8)
Content = Callable[[Path], dict[str, bytes | None]]
Shards = Callable[..., Path]


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A folder that timm loads: a tiny ViT whose every tensor matters."""
    return write_backbone(tmp_path / "backbone", seed=0)


def write_backbone(folder: Path, *, seed: int) -> Path:
    torch.manual_seed(seed)
    model = build(TINY, 16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    statistics: Any = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    arguments = model_arguments(TINY, 16)
    card = ModelCard(architecture=TINY.name, arguments=arguments, image_size=16, num_features=16, **statistics)
    write_timm_folder(folder, model.state_dict(), card)
    return folder


def umbel_embed(*arguments: object) -> None:
    words = [*map(str, arguments), "--workers", "0", "--device", "cpu"]
    run(parse(EmbedConfig, words, prog="umbel embed", help="Embed photographs"))


def one_by_one(folder: Path, data: Path) -> np.ndarray:
    """The features of every photograph alone, opened by Pillow from its bytes."""
    loaded, shards = load(folder), open_shards(str(data))
    reader = ShardReader(shards)
    with torch.inference_mode():
        return np.concatenate(
            [
                loaded.model(loaded.transform(Image.open(io.BytesIO(reader.read(row, "jpg"))).convert("RGB"))[None])
                for row in range(len(shards))
            ]
        )


@pytest.mark.parametrize("batch", [1, 4, 256])
def test_features_are_the_backbones_in_file_order(
    batch: int, backbone: Path, foreign_shards: Shards, tmp_path: Path
) -> None:
    foreign_shards(1, 3, split="val")
    data = foreign_shards(2, 4, split="train", width=60, height=40)
    umbel_embed(backbone, "--data", data, "--out", tmp_path / "e", "--batch", batch)
    got = Embeddings.load(tmp_path / "e")
    np.testing.assert_allclose(got.features, one_by_one(backbone, data), atol=1e-5)
    assert np.abs(got.features).mean() > 0.1
    assert got.keys == (*(f"train_{n:05d}" for n in range(8)), *(f"val_{n:05d}" for n in range(3)))
    assert got.label.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 2]
    assert [got.splits[number] for number in got.split] == ["train"] * 8 + ["val"] * 3


def test_workers_change_nothing(backbone: Path, foreign_shards: Shards) -> None:
    shards = open_shards(str(foreign_shards(2, 5)))
    alone, helped = (embed(load(backbone), shards, device="cpu", batch=3, workers=w) for w in (0, 2))
    assert np.array_equal(alone.features, helped.features)
    assert alone.keys == helped.keys


def test_some_splits(backbone: Path, foreign_shards: Shards, tmp_path: Path) -> None:
    foreign_shards(1, 2, split="unlabeled")
    foreign_shards(1, 2, split="train")
    data = foreign_shards(1, 2, split="test")
    umbel_embed(backbone, "--data", data, "--out", tmp_path / "e", "--splits", "test", "train")
    got = Embeddings.load(tmp_path / "e")
    assert (got.splits, got.split.tolist()) == (("test", "train"), [0, 0, 1, 1])
    with pytest.raises(UserError, match=r"no shard is of split tset; there are: test, train, unlabeled\."):
        umbel_embed(backbone, "--data", data, "--out", tmp_path / "f", "--splits", "tset")
    assert not (tmp_path / "f").exists()


def test_provenance_says_where_features_come_from(backbone: Path, made_shards: Shards, tmp_path: Path) -> None:
    data = made_shards()
    umbel_embed(backbone, "--data", data, "--out", tmp_path / "e")
    told = Embeddings.load(tmp_path / "e").provenance
    sha256 = hashlib.sha256((backbone / "model.safetensors").read_bytes()).hexdigest()
    assert told["backbone"] == {"source": f"folder {backbone}", "sha256": sha256}
    hashes = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(data.glob("*.tar")))
    assert told["data"] == {
        "folder": str(data),
        "fingerprint": open_shards(str(data)).fingerprint(),
        "shards_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
    }
    assert told["reading"] == {"tokens": "pooled", "image_size": None, "protocol": "own"}
    assert told["given"] == {"backbone": str(backbone), "data": str(data)}
    for words in ("Resize(size=18, interpolation=bicubic", "CenterCrop(size=[16, 16])", "0.1000", "pooled by 'token'"):
        assert words in told["preprocessing"]
    assert (told["device"], told["precision"], told["left_out"]) == ("cpu", "float32", {})
    assert told["versions"]["timm"]
    assert told["seconds"] >= 0
    assert told["images_per_second"] > 0


def test_weights_from_elsewhere_have_a_hash_of_their_own(backbone: Path, tmp_path: Path) -> None:
    import dataclasses

    one, other = (
        dataclasses.replace(load(folder), source="hf-hub:someone/something")
        for folder in (backbone, write_backbone(tmp_path / "other", seed=1))
    )
    assert weights_sha256(one) == weights_sha256(one)
    assert weights_sha256(one) != weights_sha256(other)
    assert len(weights_sha256(one)) == 64


def test_the_same_again_changes_nothing(
    backbone: Path, made_shards: Shards, tmp_path: Path, content: Content, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = made_shards(), tmp_path / "e"
    umbel_embed(backbone, "--data", data, "--out", out)
    before = content(out)
    capsys.readouterr()
    for more in (["--batch", 2], ["--force"]):
        umbel_embed(backbone, "--data", data, "--out", out, *more)
        assert "already holds these embeddings" in capsys.readouterr().out
    assert content(out) == before
    assert sorted(before) == ["embeddings.json", "embeddings.safetensors", "keys.txt"]


@pytest.mark.parametrize("what", ["backbone", "data", "splits"])
def test_other_inputs_are_refused_and_force_moves_aside(
    what: str, backbone: Path, made_shards: Shards, foreign_shards: Shards, tmp_path: Path, content: Content
) -> None:
    data, out = made_shards(), tmp_path / "e"
    umbel_embed(backbone, "--data", data, "--out", out)
    before = content(out)
    other = {
        "backbone": lambda: (write_backbone(tmp_path / "other", seed=1), "--data", data),
        "data": lambda: (backbone, "--data", foreign_shards()),
        "splits": lambda: (backbone, "--data", data, "--splits", "train"),
    }[what]()
    with pytest.raises(
        UserError, match=rf"holds other embeddings \({what}: .*choose another --out, or --force"
    ) as told:
        umbel_embed(*other, "--out", out)
    assert "\n" not in str(told.value)
    assert content(out) == before
    umbel_embed(*other, "--out", out, "--force")
    assert content(tmp_path / "e.old-1") == before
    assert Embeddings.load(out).provenance["given"]["backbone"] == str(other[0])


def test_a_folder_of_photographs_is_made_into_shards_first(
    backbone: Path, photographs: Callable[..., Path], tmp_path: Path, content: Content
) -> None:
    data, out = photographs([f"{name}/{n}.png" for name in ("rosa", "salvia") for n in range(3)]), tmp_path / "e"
    umbel_embed(backbone, "--data", data, "--out", out)
    got = Embeddings.load(out)
    assert (got.classes, sorted(got.label.tolist())) == (("rosa", "salvia"), [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(got.features, one_by_one(backbone, out / "shards"), atol=1e-5)
    before = content(out)
    umbel_embed(backbone, "--data", data, "--out", out)
    assert content(out) == before
    (data / "rosa" / "3.jpg").write_bytes((data / "rosa" / "2.png").read_bytes())
    with pytest.raises(UserError, match=r"holds other embeddings \(data: "):
        umbel_embed(backbone, "--data", data, "--out", out)
    umbel_embed(backbone, "--data", data, "--out", out, "--force")
    assert len(Embeddings.load(out)) == 7


def test_what_was_interrupted_is_begun_again(
    backbone: Path, photographs: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the files: without its record nothing counts as embeddings, and the shards are used again."""
    data, out = photographs(["rosa/a.jpg", "salvia/b.jpg"]), tmp_path / "e"
    umbel_embed(backbone, "--data", data, "--out", out)
    want = Embeddings.load(out)
    shards = {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    (out / "embeddings.json").unlink()
    (out / ".embeddings").mkdir()
    (out / ".embeddings" / "keys.txt").write_text("half")
    umbel_embed(backbone, "--data", data, "--out", out)
    np.testing.assert_array_equal(Embeddings.load(out).features, want.features)
    assert {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()} == shards
    assert not (out / ".embeddings").exists()


def test_bad_photographs_are_left_out_counted_and_named(
    backbone: Path,
    jpeg: Callable[..., bytes],
    write_tar: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = jpeg(1, width=90, height=90)
    members = {"a.jpg": b"hello", "b.jpg": good, "b.cls": b"1", "c.jpg": good[:-400], "d.jpg": jpeg(2), "d.cls": b"0"}
    write_tar(tmp_path / "shards" / "train-000000.tar", members)
    for batch in (1, 8):
        umbel_embed(backbone, "--data", tmp_path / "shards", "--out", tmp_path / f"e{batch}", "--batch", batch)
        got = Embeddings.load(tmp_path / f"e{batch}")
        assert (got.keys, got.label.tolist()) == (("b", "d"), [1, 0])
        assert list(got.provenance["left_out"]) == ["a", "c"]
        said = capsys.readouterr().out
        assert "left out: a: it is not an image" in said
        assert "left out: c: image file is truncated" in said


def test_many_bad_photographs_are_counted(
    backbone: Path,
    jpeg: Callable[..., bytes],
    write_tar: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    members = {f"{n:02d}.jpg": b"hello" for n in range(13)}
    write_tar(tmp_path / "shards" / "train-000000.tar", members)
    with pytest.raises(
        UserError, match=r"none of the 13 photographs can be embedded \(the first: it is not an image\)"
    ):
        umbel_embed(backbone, "--data", tmp_path / "shards", "--out", tmp_path / "e")
    assert not (tmp_path / "e").exists()
    write_tar(tmp_path / "more" / "train-000000.tar", members | {"x.jpg": jpeg()})
    umbel_embed(backbone, "--data", tmp_path / "more", "--out", tmp_path / "e")
    said = capsys.readouterr().out
    assert said.count("left out: ") == 11
    assert "left out: 3 more." in said
    told = json.loads((tmp_path / "e" / "embeddings.json").read_text())["provenance"]["left_out"]
    assert len(told) == 13


def test_weights_that_are_not_finite_are_told(tmp_path: Path, backbone: Path, foreign_shards: Shards) -> None:
    loaded = load(backbone)
    with torch.no_grad():
        loaded.model.norm.weight[0] = torch.nan
    with pytest.raises(UserError, match="features are not finite"):
        embed(loaded, open_shards(str(foreign_shards())), device="cpu")


@pytest.mark.parametrize("strange", ["file", "folder", "run"])
def test_strangers_are_left_alone(
    strange: str, backbone: Path, made_shards: Shards, tmp_path: Path, content: Content
) -> None:
    out = tmp_path / "e"
    if strange == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / ("notes.txt" if strange == "folder" else "config.yaml")).write_text("mine")
    before = content(tmp_path / "e") if out.is_dir() else out.read_bytes()
    with pytest.raises(UserError, match=r"is a file|holds other files \((notes|config)"):
        umbel_embed(backbone, "--data", made_shards(), "--out", out)
    assert (content(tmp_path / "e") if out.is_dir() else out.read_bytes()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "--data", "shards"], "backbone 'nothing' is neither"),
        (["backbone", "--data", "nowhere"], "nowhere does not exist"),
        (["backbone", "--data", "http://127.0.0.1:9/train-000000.tar"], "its host cannot be reached"),
        (["backbone", "--data", "shards", "--batch", "0"], "batch must be at least 1, not 0"),
        (["backbone", "--data", "shards", "--workers", "-2"], "workers must be at least -1, not -2"),
        (["backbone"], "--data"),
    ],
)
def test_what_cannot_be_embedded_is_answered_in_a_sentence(
    arguments: list[str],
    words: str,
    backbone: Path,
    made_shards: Shards,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_shards()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        run(parse(EmbedConfig, [*arguments, "--out", "e"], prog="umbel embed", help=""))
    assert words in str(told.value)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_lost_on_the_way_is_answered_in_a_sentence(
    workers: int, foreign_shards: Shards, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreadable, "PAUSES", ())
    folder = foreign_shards(2, 5)
    shards = open_shards(str(folder))
    (folder / "train-000001.tar").unlink()
    with pytest.raises(UserError) as told:
        embed(load(str(backbone)), shards, device="cpu", workers=workers)
    assert str(told.value).startswith(f"shard {folder / 'train-000001.tar'} cannot be read")
    assert "\n" not in str(told.value)
