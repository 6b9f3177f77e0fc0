"""Words read by open_clip's text tower: on embeddings, adapted with the image tower, remembered and checked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from umbel.backbones.text_tower import OpenClipText, load_text_tower
from umbel.data.index import open_shards
from umbel.data.reader import ShardReader
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing import Codes, load_hasher, unpack
from umbel.evaluation.hashing.evaluate import make_task
from umbel.evaluation.hashing.fit_config import HashFitConfig
from umbel.evaluation.hashing.pairs import PairedCoder
from umbel.evaluation.hashing.queries import codes_backbone
from umbel.evaluation.hashing.serve_command import HashServeConfig, make_server
from umbel.run import UserError

pytest.importorskip("open_clip")
Umbel = Callable[..., Any]
Refused = Callable[..., str]
QUICK = ("--bits", 8, "--device", "cpu", "--crovca.least-steps", 20, "--crovca.batch", 8)
VIEWS = ("--photographs.workers", 0, "--photographs.policy", "none")
CPU = ("--workers", 0, "--device", "cpu")


@pytest.fixture
def clip(make_clip: Callable[..., Path]) -> str:
    return f"open_clip:local-dir:{make_clip()}"


@pytest.fixture
def made(clip: str, captioned: Path, tmp_path: Path, umbel: Umbel) -> Path:
    """Embeddings of the image tower, a coder of them and of captions read by the text tower, and the codes."""
    for command in (
        ["embed", clip, "--data", captioned, "--out", tmp_path / "embeddings", *CPU],
        *(["hash", "fit", tmp_path / "embeddings", "--pairs", "captions", "--texts", clip, *QUICK, "--out", coder]
          for coder in [tmp_path / "coder"]),
        ["hash", "encode", tmp_path / "coder", "--embeddings", tmp_path / "embeddings", "--out", tmp_path / "codes"],
    ):  # fmt: skip
        ending = umbel(*command)
        assert ending.code == 0, ending.err
    return tmp_path


def test_features_are_those_that_open_clip_encodes(clip: str) -> None:
    import open_clip

    name = clip.removeprefix("open_clip:")
    model, tokenizer = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)
    texts = ["a photograph of Rosa canina", "thyme", "thyme", "a text that is longer than ten words can be, and cut"]
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(texts))
    tower = load_text_tower(clip)
    found = tower.features(texts)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert found.dtype == np.float32
    assert len(np.unique(found.round(4), axis=0)) == 3


def test_its_hash_is_of_what_reads_text(make_clip: Callable[..., Path]) -> None:
    one, other = (OpenClipText(f"local-dir:{make_clip(name, seed=seed)}") for name, seed in (("one", 0), ("other", 1)))
    before = one.sha256
    assert before != other.sha256
    one.model.visual.proj.data += 1
    assert one.sha256 == before
    one.model.text_projection.data += 1
    assert one.sha256 != before


def test_words_and_photographs_meet_through_the_towers(made: Path, clip: str, umbel: Umbel) -> None:
    coder, _ = load_hasher(made / "coder")
    assert isinstance(coder, PairedCoder)
    texts = ["Rosa canina", "Thymus vulgaris, 3"]
    logits = coder.other.logits(load_text_tower(clip).features(texts))
    assert np.array_equal(coder.text_logits(texts), logits)
    code, said, err = umbel("hash", "search", made / "codes", "--text", *texts, "--json", "--top", 3)
    assert code == 0, err
    codes = unpack(Codes.load(made / "codes").packed, 8)
    for answer, own in zip(json.loads(said), logits, strict=True):
        distance = sorted((codes != (own > 0)).sum(1).tolist())[:3]
        assert [row["hamming"] for row in answer["found"]] == distance


def test_the_towers_own_space_is_measured_beside(made: Path, clip: str, umbel: Umbel) -> None:
    code, said, err = umbel("hash", "evaluate", made / "codes", made / "embeddings", "--json")
    assert code == 0, err
    told = json.loads(said)
    assert [row["distance"] for row in told["scores"] if row["name"].endswith("by words, towers alone")] == ["cosine"]
    embeddings = Embeddings.load(made / "embeddings")
    task = make_task(embeddings.label, embeddings.split, embeddings.splits)
    read = load_text_tower(clip).features([f"a photograph of {name}" for name in embeddings.classes])
    read /= np.linalg.norm(read, axis=1, keepdims=True)
    right = (embeddings.features[task.queries] @ read.T).argmax(1) == task.query_label
    assert told["zero_shot"][0]["by_towers"] == pytest.approx(right.mean())
    assert " by the towers alone, of 3 species" in umbel("hash", "evaluate", made / "codes", made / "embeddings").out


def test_a_tower_that_changed_or_went_is_refused(
    made: Path, make_clip: Callable[..., Path], umbel: Umbel, refused: Refused
) -> None:
    search = ["hash", "search", made / "codes", "--text", "Rosa"]
    shutil.rmtree(made / "clip")
    make_clip(seed=1)
    assert "has other weights than the tower that the coder's texts were read by" in refused(*search)
    code, said, _ = umbel("hash", "evaluate", made / "codes", made / "embeddings")
    assert code == 0
    assert "not measured by words:" in said
    shutil.rmtree(made / "clip")
    assert "cannot be loaded" in refused(*search)
    assert umbel("hash", "search", made / "codes", "--key", "plant_001").code == 0  # no words, no tower


def test_both_towers_are_adapted(clip: str, captioned: Path, tmp_path: Path, umbel: Umbel, refused: Refused) -> None:
    pytest.importorskip("peft")
    coder = tmp_path / "coder"
    adapt = ("--lora.rank", 2, "--crovca.epochs", 3)
    fit = ["hash", "fit", clip, "--data", captioned, "--pairs", "names", "--texts", clip, *QUICK, *VIEWS, *adapt]
    code, _, err = umbel(*fit, "--out", coder)
    assert code == 0, err
    assert {path.name for path in coder.iterdir()} == {
        *("coder.json", "coder.safetensors", "backbone", "adapter", "adapter-text")
    }
    plain, merged = (load_file(f / "open_clip_model.safetensors") for f in (tmp_path / "clip", coder / "backbone"))
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert set(plain) == set(merged)
    assert {name.startswith("visual.") for name in changed} == {True, False}
    assert all(".attn." in name for name in changed)
    assert umbel("embed", coder / "backbone", "--data", captioned, "--out", tmp_path / "embeddings", *CPU).code == 0
    encode = ["hash", "encode", coder, "--out", tmp_path / "codes", "--embeddings", tmp_path / "embeddings"]
    assert umbel(*encode).code == 0
    # The text tower that is remembered is the adapted one, wherever the folder lies.
    hasher, told = load_hasher(coder)
    assert isinstance(hasher, PairedCoder)
    assert told["adapted"]["text"]
    words = hasher.text_logits(["Rosa canina"])
    adapted = load_text_tower(f"open_clip:local-dir:{coder / 'backbone'}")
    assert np.array_equal(words, hasher.other.logits(adapted.features(["Rosa canina"])))
    assert not np.allclose(adapted.features(["Rosa"]), load_text_tower(clip).features(["Rosa"]), atol=1e-4)
    coder.rename(tmp_path / "moved")
    moved, _ = load_hasher(tmp_path / "moved")
    assert isinstance(moved, PairedCoder)
    assert np.array_equal(moved.text_logits(["Rosa canina"]), words)
    search = ["hash", "search", tmp_path / "codes", "--text", "Rosa canina", "--coder", tmp_path / "moved"]
    assert umbel(*search).code == 0
    photograph = ["hash", "search", tmp_path / "codes", "--photo", tmp_path / "no.jpg", "--coder", tmp_path / "moved"]
    assert "cannot be used" in refused(*photograph)
    # And so is the adapted backbone: no other command looks where it was.
    encode = ["hash", "encode", tmp_path / "moved", "--data", captioned, "--out", tmp_path / "by-data", *CPU]
    code, _, err = umbel(*encode)
    assert code == 0, err
    by_data, by_embeddings = (Codes.load(tmp_path / name) for name in ("by-data", "codes"))
    assert np.array_equal(by_data.packed, by_embeddings.packed)
    assert codes_backbone(by_embeddings, None, tmp_path / "moved").source.endswith("moved/backbone")
    (tmp_path / "moved").rename(tmp_path / "again")
    (tmp_path / "photo.jpg").write_bytes(ShardReader(open_shards(str(captioned))).read(3, "jpg"))
    photograph = ["hash", "search", tmp_path / "codes", "--photo", tmp_path / "photo.jpg", "--top", 2]
    assert "holds no hash coder" in refused(*photograph)
    assert umbel(*photograph, "--coder", tmp_path / "again").code == 0
    server = make_server(HashServeConfig(codes=tmp_path / "codes", coder=tmp_path / "again", port=0))
    server.server_close()


def test_the_image_tower_alone_is_adapted_beside_letters(
    clip: str, captioned: Path, tmp_path: Path, umbel: Umbel
) -> None:
    pytest.importorskip("peft")
    adapt = ("--lora.rank", 2, "--crovca.epochs", 2)
    fit = ["hash", "fit", clip, "--data", captioned, "--pairs", "captions", *QUICK, *VIEWS, *adapt]
    assert umbel(*fit, "--out", tmp_path / "coder").code == 0
    folders = (tmp_path / "clip", tmp_path / "coder" / "backbone")
    plain, merged = (load_file(folder / "open_clip_model.safetensors") for folder in folders)
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert changed
    assert all(name.startswith("visual.") for name in changed)


def test_what_reads_no_texts_is_told(made: Path, refused: Refused) -> None:
    fit = ["hash", "fit", made / "embeddings", "--bits", 8, "--out", made / "o", "--texts"]
    assert "'vit_tiny' reads no texts: give letters, open_clip:NAME or clap:NAME" in refused(
        *fit, "vit_tiny", "--pairs", "names"
    )
    assert "cannot be loaded" in refused(*fit, "open_clip:ViT-X-99", "--pairs", "names")
    assert "are read for pairs names or captions alone" in refused(*fit, "open_clip:ViT-X-99")
    assert not (made / "o").exists()
    with pytest.raises(ValueError, match="texts"):
        HashFitConfig(source="a", out=made, texts="clap:a", pairs="embeddings")
    with pytest.raises(UserError, match="reads no texts"):
        load_text_tower("")
