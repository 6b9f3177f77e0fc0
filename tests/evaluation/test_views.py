"""`umbel views`: a picture of photographs and their views, from a photograph, a folder or shards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umbel.evaluation.views import choose_photographs

Photographs = Callable[..., Path]
Umbel = Callable[..., Any]
Refused = Callable[..., str]


@pytest.mark.parametrize("kind", ["photograph", "folder", "made", "foreign"])
def test_a_sheet_of_anything_that_holds_photographs(
    kind: str,
    tmp_path: Path,
    photographs: Photographs,
    made_shards: Callable[..., Path],
    foreign_shards: Callable[..., Path],
    umbel: Umbel,
) -> None:
    data, count = {
        "photograph": lambda: (photographs(["a.jpg"]) / "a.jpg", 1),
        "folder": lambda: (photographs(["rosa/a.jpg", "salvia/b.png", "salvia/c.jpg"]), 3),
        "made": lambda: (made_shards(), 5),
        "foreign": lambda: (foreign_shards(), 5),
    }[kind]()
    out = tmp_path / "new" / "sheet.png"
    code, said, err = umbel("views", data, "--out", out, "--count", 5, "--recipe", "demo")
    assert code == 0, err
    assert f"{count} photographs with 6 views each" in said
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
    assert [path.name for path in out.parent.iterdir()] == ["sheet.png"]


def test_the_seed_decides(tmp_path: Path, photographs: Photographs, umbel: Umbel) -> None:
    data = photographs([f"{n}.jpg" for n in range(9)])
    sheets = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / f"{number}.png"
        umbel("views", data, "--out", out, "--count", 2, "--seed", seed)
        sheets.append(np.asarray(Image.open(out)))
    assert np.array_equal(sheets[0], sheets[1])
    assert not np.array_equal(sheets[0], sheets[2])


def test_policies_stand_beside_each_other(tmp_path: Path, photographs: Photographs, umbel: Umbel) -> None:
    data = photographs(["a.jpg", "b.jpg"])
    own = tmp_path / "mine.yaml"
    own.write_text("format: 1\ncommand: pretrain\nviews: {policy: [{name: RandomGrayscale, p: 1}]}\n")
    plain, gray = tmp_path / "plain.png", tmp_path / "gray.png"
    names = ["plant", "ablation/blur", own]
    code, said, err = umbel("views", data, "--out", plain, "--policies", *names)
    assert code == 0, err
    assert f"2 photographs with 6 views each, policies plant, ablation/blur, {own}." in said
    code, said, err = umbel("views", data, "--out", gray, "--policies", own)
    assert f"policy {own}." in said
    assert code == 0, err
    assert Image.open(plain).height > Image.open(gray).height


def test_a_recipes_own_list_is_shown(tmp_path: Path, photographs: Photographs, umbel: Umbel) -> None:
    code, said, err = umbel(
        "views", photographs(["a.jpg"]), "--out", tmp_path / "s.png", "--recipe", "ablation/no-jitter"
    )
    assert code == 0, err
    assert "policy ColorJitter, RandomGrayscale, RandomGaussianBlur, RandomSolarize, RandomPosterize, Ra" in said


def test_photographs_are_drawn_without_repeats(photographs: Photographs) -> None:
    found = choose_photographs(str(photographs([f"{n}.jpg" for n in range(5)])), 9, 0)
    assert len({photograph.numpy().tobytes() for photograph in found}) == 5


def test_panoramas_and_strips_stay_on_the_sheet(
    tmp_path: Path, photographs: Photographs, jpeg: Callable[..., bytes], umbel: Umbel
) -> None:
    data = photographs({"wide.jpg": jpeg(1, width=900, height=20), "tall.jpg": jpeg(2, width=20, height=900)})
    code, _, err = umbel("views", data, "--out", tmp_path / "s.png")
    assert code == 0, err
    assert Image.open(tmp_path / "s.png").width < 2000


@pytest.mark.parametrize(
    ("content", "words"), [(b"hello", "it is not an image"), (b"", "it is not an image"), (None, "truncated")]
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_bad_photograph_is_named(
    content: bytes | None,
    words: str,
    alone: bool,
    tmp_path: Path,
    photographs: Photographs,
    jpeg: Callable[..., bytes],
    refused: Refused,
) -> None:
    data = photographs({"a.jpg": jpeg(1, width=200, height=200)[:-300] if content is None else content})
    sentence = refused("views", data / "a.jpg" if alone else data, "--out", tmp_path / "s.png")
    assert "a.jpg cannot be used" in sentence
    assert words in sentence
    assert not (tmp_path / "s.png").exists()


def test_a_bad_photograph_in_a_shard_is_named(tmp_path: Path, write_tar: Callable[..., Path], refused: Refused) -> None:
    write_tar(tmp_path / "shards" / "train-000000.tar", {"a.jpg": b"hello"})
    assert "it is not a JPEG" in refused("views", tmp_path / "shards", "--out", tmp_path / "s.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere"),
        (["empty"], "empty holds neither photographs nor shards"),
        (["notes.txt"], "notes.txt cannot be used"),
        (["photographs", "--count", "0"], "--count must be at least 1, not 0"),
        (["photographs", "--out", "sheet.jpg"], "--out must end in .png, not sheet.jpg"),
        (["photographs", "--recipe", "deno"], "did you mean 'demo'?"),
        (["photographs", "--recipe", "mine.yaml"], "mine.yaml"),
        (["photographs", "--seed", "-1"], "seed"),
        (["photographs", "--views.policy", "plants"], "did you mean 'plant'?"),
        (["photographs", "--policies", "plant", "dinov"], "neither a policy (plant, plant-paper, dinov2, none)"),
        (["photographs", "--policies", "plant", "ablation/blu"], "nor a recipe, did you mean 'ablation/blur'?"),
        (["photographs", "--policies", "mine.yaml"], "mine.yaml: there is no such file"),
        (["photographs", "--policies", "null.yaml"], "views must be a mapping of settings"),
        (
            ["photographs", "--policies", "plant", "dinov2", "--views.local-size", "4"],
            "--policies: views.global_size and",
        ),
        (["train-{000000..000002.tar"], "train-{000000..000002.tar"),
    ],
)
def test_what_cannot_be_drawn_is_answered_in_a_sentence(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    photographs: Photographs,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photographs(["a.jpg"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "null.yaml").write_text("format: 1\ncommand: pretrain\nviews: null\n")
    monkeypatch.chdir(tmp_path)
    assert words in refused("views", *arguments)
    assert not list(tmp_path.glob("*.png"))


def test_a_photograph_is_not_replaced_by_its_own_sheet(
    tmp_path: Path, picture: Callable[..., Image.Image], umbel: Umbel
) -> None:
    photograph = tmp_path / "rosa.png"
    picture(1).save(photograph)
    before = photograph.read_bytes()
    code, _, _ = umbel("views", photograph, "--out", photograph)
    assert photograph.read_bytes() == before
    assert code == 2


def test_real_photographs_fill_a_sheet(shared_data: Path, tmp_path: Path, umbel: Umbel) -> None:
    code, _, err = umbel("views", shared_data / "photos", "--out", tmp_path / "s.png", "--count", 3)
    assert code == 0, err
    assert Image.open(tmp_path / "s.png").height > 900
