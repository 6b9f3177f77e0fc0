"""`umbel embed` killed at every moment, continued, and shared by several processes: always the same files."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import open_shards
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.tensor_file import write_tensors

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8)
Run = Callable[..., tuple[list[int], str]]


@pytest.fixture
def run(forked: Run, tmp_path: Path) -> Run:
    """Run the command in processes of its own."""
    backbone = write_backbone(tmp_path / "backbone")

    def start(data: Path, out: Path, *flags: object, **how: Any) -> tuple[list[int], str]:
        words = ["embed", backbone, "--data", data, "--out", out, "--workers", 0, "--device", "cpu", *flags]
        return forked(words, **how)

    return start


def write_backbone(folder: Path) -> Path:
    torch.manual_seed(0)
    model = build(TINY, 16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    statistics: Any = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    arguments = model_arguments(TINY, 16)
    card = ModelCard(architecture=TINY.name, arguments=arguments, image_size=16, num_features=16, **statistics)
    write_timm_folder(folder, model.state_dict(), card)
    return folder


def stored(out: Path) -> dict[str, Any]:
    """Every file's bytes; of the record all but the time that it took."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in out.iterdir()}
    told = json.loads(found.pop("embeddings.json"))
    assert told["provenance"].pop("seconds") > 0
    assert told["provenance"].pop("images_per_second") > 0
    return found | {"embeddings.json": told}


@pytest.fixture
def damaged(foreign_shards: Callable[..., Path], write_tar: Callable[..., Path]) -> Path:
    """Seven photographs and one that is none, the fifth."""
    folder = foreign_shards(1, 4)
    write_tar(folder / "train-000001.tar", {"bad.jpg": b"hello", "bad.cls": b"0"})
    foreign_shards(1, 3, split="val")
    open_shards(str(folder))  # their index is kept, so that no command writes it
    return folder


def test_killed_at_any_moment_it_goes_on_to_the_same_files(run: Run, damaged: Path, tmp_path: Path) -> None:
    flags = ("--batch", 2, "--part", 3)
    codes, _ = run(damaged, tmp_path / "whole", *flags)
    assert codes == [0]
    want = stored(tmp_path / "whole")
    assert sorted(want) == ["embeddings.json", "embeddings.safetensors", "keys.txt"]
    assert want["embeddings.json"]["count"] == 7
    assert want["embeddings.json"]["provenance"]["left_out"] == {"bad": "it is not an image"}
    kept = []
    # Before and behind each renaming: of the parts' record, the parts, the joined files.
    for kill in (0, 3, 4, 7, 8, 10, 11, 12):
        out = tmp_path / f"killed-{kill}"
        codes, _ = run(damaged, out, *flags, kill=kill)
        assert codes == [-signal.SIGKILL]
        there = len(list((out / ".parts").glob("part-*.safetensors")))
        codes, said = run(damaged, out, *flags)
        assert codes == [0], said
        assert (f"going on: {there} of 3 parts are there." in said) == (there > 0 and "already holds" not in said)
        kept.append(there)
        assert stored(out) == want
    assert kept == [0, 1, 1, 3, 3, 3, 3, 3]


def test_ranks_share_the_work_and_their_files_are_one_processs(run: Run, damaged: Path, tmp_path: Path) -> None:
    flags = ("--batch", 2, "--part", 3, "--tokens", "both")
    assert run(damaged, tmp_path / "one", *flags)[0] == [0]
    codes, said = run(damaged, tmp_path / "two", *flags, ranks=2)
    assert codes == [0, 0], said
    assert said.count("2 processes share 3 parts of 3 photographs.") == 1
    assert said.count("left out: bad") == 1
    assert stored(tmp_path / "two") == stored(tmp_path / "one")
    codes, said = run(damaged, tmp_path / "two", *flags, ranks=2)
    assert (codes, said.count("already holds")) == ([0, 0], 1)


def test_what_two_ranks_began_one_process_ends(run: Run, damaged: Path, tmp_path: Path) -> None:
    assert run(damaged, tmp_path / "whole", "--part", 2)[0] == [0]
    # Rank 0 writes the record first: at the same number of fsyncs the ranks are not equally far.
    codes, _ = run(damaged, tmp_path / "e", "--part", 2, ranks=2, kill=3)
    assert -signal.SIGKILL in codes
    codes, said = run(damaged, tmp_path / "e", "--part", 2)
    assert codes == [0]
    assert "going on: " in said
    assert stored(tmp_path / "e") == stored(tmp_path / "whole")


def test_a_rank_that_fails_ends_rank_0_too(run: Run, damaged: Path, tmp_path: Path) -> None:
    broken = "import umbel.evaluation.embed_parts as e; from umbel.run import UserError\n"
    broken += "def check(features):\n    raise UserError('nothing is finite here.')\ne.check_finite = check"
    codes, said = run(damaged, tmp_path / "e", "--part", 3, ranks=2, inject={1: broken})
    assert codes == [2, 2]
    assert "umbel: nothing is finite here." in said
    assert "umbel: rank 1 failed, and says why; the same command goes on from the parts there." in said
    assert not (tmp_path / "e" / "embeddings.json").exists()
    codes, said = run(damaged, tmp_path / "e", "--part", 3, ranks=2)
    assert codes == [0, 0]
    assert "going on: 2 of 3 parts are there." in said


def test_several_processes_need_shards(run: Run, photographs: Callable[..., Path], tmp_path: Path) -> None:
    codes, said = run(photographs(["rosa/a.jpg", "salvia/b.jpg"]), tmp_path / "e", ranks=2)
    assert codes == [2, 2]
    assert said.count("holds no shards, which several processes need") == 1
    assert not (tmp_path / "e").exists()


def test_other_settings_do_not_go_on(run: Run, damaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    assert run(damaged, out, "--part", 3, kill=4)[0] == [-signal.SIGKILL]
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for flags, words in (
        (("--part", 4), "part: 3 there, 4 now"),
        (("--part", 3, "--tokens", "mean"), "preprocessing: "),
        (("--part", 3, "--splits", "val"), "splits: [] there, ['val'] now"),
    ):
        codes, said = run(damaged, out, *flags)
        assert codes == [2]
        assert f"holds a part of other embeddings ({words}" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert run(damaged, out, "--part", 4, "--force")[0] == [0]
    assert (tmp_path / "e.old-1" / ".parts" / "part-000000.safetensors").is_file()
    # Another batch is no other setting: the same features but for rounding.
    assert run(damaged, out, "--part", 4, "--batch", 1)[1].count("already holds") == 1


def test_files_are_as_embeddings_save_them(run: Run, damaged: Path, tmp_path: Path) -> None:
    assert run(damaged, tmp_path / "e", "--part", 3)[0] == [0]
    Embeddings.load(tmp_path / "e").save(tmp_path / "again")
    assert stored(tmp_path / "e") == stored(tmp_path / "again")


def test_tensors_in_pieces_are_safetensors(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    label = np.arange(5, dtype=np.int64)
    pieces = {"label": ("<i8", (5,), [label[:2], label[2:]]), "x": ("<f4", (5, 3), iter([features[:4], features[4:]]))}
    write_tensors(tmp_path / "a.safetensors", pieces)
    save_file({"x": features, "label": label}, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert np.array_equal(load_file(tmp_path / "a.safetensors")["x"], features)
    with pytest.raises(ValueError, match="pieces of tensor x do not make up its shape"):
        write_tensors(tmp_path / "c.safetensors", {"x": ("<f4", (5, 3), [features[:4]])})
