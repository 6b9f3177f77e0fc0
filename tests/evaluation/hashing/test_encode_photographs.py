"""`umbel hash encode --data`: photographs to codes, killed at any moment, continued, shared by several processes."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import open_shards
from umbel.data.reader import ShardReader
from umbel.evaluation.hashing import Codes

Run = Callable[..., tuple[list[int], str]]
Umbel = Callable[..., Any]
Refused = Callable[..., str]


def write_backbone(folder: Path, seed: int = 0) -> Path:
    tiny = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8)
    torch.manual_seed(seed)
    model = build(tiny, 16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    card = ModelCard(
        architecture=tiny.name,
        arguments=model_arguments(tiny, 16),
        image_size=16,
        num_features=16,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )
    write_timm_folder(folder, model.state_dict(), card)
    return folder


@pytest.fixture
def damaged(foreign_shards: Callable[..., Path], write_tar: Callable[..., Path]) -> Path:
    """Fifteen photographs and one that is none."""
    folder = foreign_shards(1, 8)
    write_tar(folder / "train-000001.tar", {"bad.jpg": b"hello", "bad.cls": b"0"})
    foreign_shards(1, 7, split="val")
    open_shards(str(folder))  # their index is kept, so that no command writes it
    return folder


@pytest.fixture
def fitted(damaged: Path, tmp_path: Path, umbel: Umbel) -> Path:
    """A folder with a backbone, embeddings (both tokens, so that reading is not the backbone's own) and a coder."""
    write_backbone(tmp_path / "backbone")
    for words in (
        ["embed", tmp_path / "backbone", "--data", damaged, "--out", tmp_path / "e", "--tokens", "both"],
        ["hash", "fit", tmp_path / "e", "--method", "lsh", "--bits", 12, "--out", tmp_path / "coder"],
        ["hash", "encode", tmp_path / "coder", "--embeddings", tmp_path / "e", "--out", tmp_path / "by-embeddings"],
    ):
        ending = umbel(*words)
        assert ending.code == 0, ending.err
    return tmp_path


@pytest.fixture
def run(forked: Run, fitted: Path, damaged: Path) -> Run:
    def start(out: Path, *flags: object, **how: Any) -> tuple[list[int], str]:
        few = ("--batch", 2, "--part", 3, "--workers", 0, "--device", "cpu")
        return forked(["hash", "encode", fitted / "coder", "--data", damaged, "--out", out, *few, *flags], **how)

    return start


def stored(out: Path) -> dict[str, Any]:
    """Every file's bytes; of the record all but the time that it took."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in out.iterdir()}
    told = json.loads(found.pop("codes.json"))
    for name in ("seconds", "images_per_second"):
        assert told["provenance"].pop(name) > 0
    return found | {"codes.json": told}


def test_codes_are_those_of_the_embeddings(run: Run, fitted: Path) -> None:
    codes, said = run(fitted / "codes")
    assert codes == [0], said
    assert "left out: bad: it is not an image" in said
    ours, theirs = Codes.load(fitted / "codes"), Codes.load(fitted / "by-embeddings")
    assert len(ours) == 15
    assert len(np.unique(ours.packed, axis=0)) > 3
    for name in ("packed", "label", "split"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert (list(ours.keys), ours.splits, ours.classes) == (list(theirs.keys), theirs.splits, theirs.classes)
    for name in ("backbone", "preprocessing", "reading", "data", "coder"):
        assert ours.provenance[name] == theirs.provenance[name]
    assert not list(fitted.glob(".codes*"))


def test_photographs_are_searched_with_by_the_backbone_that_the_codes_name(
    run: Run, fitted: Path, damaged: Path, umbel: Umbel
) -> None:
    assert run(fitted / "codes")[0] == [0]
    shards = open_shards(str(damaged))
    (fitted / "photo.jpg").write_bytes(ShardReader(shards).read(3, "jpg"))
    answers = [
        umbel("hash", "search", fitted / name, "--photo", fitted / "photo.jpg", "--top", 3, "--json")
        for name in ("codes", "by-embeddings")
    ]
    assert answers[0].code == 0, answers[0].err
    first = json.loads(answers[0].out)
    assert first == json.loads(answers[1].out)


def test_killed_at_any_moment_it_goes_on_to_the_same_files(run: Run, fitted: Path) -> None:
    assert run(fitted / "whole")[0] == [0]
    want = stored(fitted / "whole")
    kept = []
    for kill in (1, 3, 5, 12, 14, 16):
        out = fitted / f"killed-{kill}"
        codes, said = run(out, kill=kill)
        assert codes == [-signal.SIGKILL], said
        there = len(list((fitted / f".killed-{kill}.parts").glob("part-*.safetensors")))
        codes, said = run(out)
        assert codes == [0], said
        assert (f"going on: {there} of 6 parts are there." in said) == (there > 0)
        kept.append(there)
        assert stored(out) == want
    assert min(kept) == 0
    assert max(kept) == 6


def test_ranks_share_the_work_and_their_files_are_one_processs(run: Run, fitted: Path) -> None:
    assert run(fitted / "one")[0] == [0]
    codes, said = run(fitted / "two", ranks=2)
    assert codes == [0, 0], said
    assert said.count("2 processes share 6 parts of 3 photographs.") == 1
    assert said.count("left out: bad") == 1
    assert stored(fitted / "two") == stored(fitted / "one")
    codes, said = run(fitted / "two", ranks=2)
    assert (codes, said.count("already holds these codes")) == ([0, 0], 1)


def test_ranks_leave_embeddings_to_one_of_them(forked: Run, fitted: Path) -> None:
    words = ["hash", "encode", fitted / "coder", "--embeddings", fitted / "e", "--out", fitted / "two"]
    codes, said = forked(words, ranks=2)
    assert (codes, said.count("15 codes of 12 bits")) == ([0, 0], 1)


def test_other_parts_are_not_gone_on_with(run: Run, fitted: Path) -> None:
    assert run(fitted / "codes", kill=5)[0] == [-signal.SIGKILL]
    codes, said = run(fitted / "codes", "--part", 4)
    assert codes == [2]
    assert "part: 3 there, 4 now" in said
    codes, said = run(fitted / "codes", "--part", 4, "--force")
    assert codes == [0]
    assert "moved aside" in said


def test_what_is_not_the_coders_is_refused(
    fitted: Path, damaged: Path, refused: Refused, tmp_path: Path, umbel: Umbel
) -> None:
    encode = ["hash", "encode", fitted / "coder", "--out", tmp_path / "codes"]
    assert "give either embeddings or data" in refused(*encode)
    assert "give either embeddings or data" in refused(*encode, "--data", damaged, "--embeddings", fitted / "e")
    assert "backbone is for photographs" in refused(*encode, "--embeddings", fitted / "e", "--backbone", "x")
    assert "holds no shards" in refused(*encode, "--data", tmp_path / "nowhere")
    assert "part must be at least 1" in refused(*encode, "--data", damaged, "--part", 0)
    other = write_backbone(tmp_path / "other", seed=1)
    assert "has other weights" in refused(*encode, "--data", damaged, "--backbone", other)
    told = json.loads((fitted / "coder" / "coder.json").read_text())
    told["provenance"]["reading"] = None
    (fitted / "coder" / "coder.json").write_text(json.dumps(told))
    assert "makes features of width 16, and" in refused(*encode, "--data", damaged)
    del told["provenance"]["backbone"]
    (fitted / "coder" / "coder.json").write_text(json.dumps(told))
    assert "does not tell the backbone" in refused(*encode, "--data", damaged)
    assert not (tmp_path / "codes").exists()


def test_a_backbone_that_reads_otherwise_is_refused(fitted: Path, damaged: Path, refused: Refused) -> None:
    told = json.loads((fitted / "coder" / "coder.json").read_text())
    told["provenance"]["reading"]["tokens"] = "class"
    told["provenance"]["reading"]["image_size"] = 32
    (fitted / "coder" / "coder.json").write_text(json.dumps(told))
    encode = ["hash", "encode", fitted / "coder", "--out", fitted / "codes", "--data", damaged]
    assert "width 16" in refused(*encode)
    told["provenance"]["reading"]["tokens"] = "both"
    (fitted / "coder" / "coder.json").write_text(json.dumps(told))
    assert "reads photographs otherwise" in refused(*encode)
