"""Sounds by CLAP: a small model with random weights, from a folder of .wav files to sounds found by words."""

import importlib
import json
import os
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from umbel.backbones import load
from umbel.backbones.clap import Clap
from umbel.backbones.text_tower import load_text_tower
from umbel.data.sound_files import BadSoundError, read_sound, read_sounds
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing import Codes, load_hasher, unpack
from umbel.evaluation.hashing.pairs import PairedCoder
from umbel.run import UserError

transformers: Any = pytest.importorskip("transformers")
Umbel = Callable[..., Any]
Refused = Callable[..., str]
RATE = 8000
NAMES = ("Parus major", "Turdus merula")


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What transformers loads as a ClapModel: features of width 12, hears a second at 8 kHz."""
    folder = tmp_path_factory.mktemp("clap")
    tokenizers: Any = importlib.import_module("tokenizers")
    letters = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters.train_from_iterator(["the song of parus major"], vocab_size=280, special_tokens=special)
    letters.save_model(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    text = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "max_position_embeddings": 40}
    audio = {"window_size": 2, "num_mel_bins": 8, "spec_size": 32, "hidden_size": 32, "depths": [1, 1]}
    audio |= {"num_attention_heads": [2, 2], "patch_embeds_hidden_size": 16, "num_hidden_layers": 2, "num_classes": 3}
    both = {"text_config": text | {"projection_dim": 12}, "audio_config": audio | {"projection_dim": 12}}
    torch.manual_seed(0)
    model = transformers.ClapModel(transformers.ClapConfig(**both, projection_dim=12))
    for parameter in model.parameters():  # as they are made, features of all texts are nearly alike
        parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    mel = {"feature_size": 8, "hop_length": 80, "fft_window_size": 256, "frequency_max": 4000}
    transformers.ClapFeatureExtractor(
        sampling_rate=RATE, max_length_s=1, truncation="rand_trunc", **mel
    ).save_pretrained(folder)
    return folder


def tone(pitch: float, seconds: float = 0.6, seed: int = 0) -> np.ndarray:
    """A tone with some noise, (S,) float32."""
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(size=len(time))
    return (0.5 * np.sin(2 * np.pi * pitch * time) + 0.02 * noise).astype(np.float32)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Two classes, train and test, with captions of the train split; one file is no sound."""
    for split, count in (("train", 8), ("test", 3)):
        for label, name in enumerate(NAMES):
            folder = tmp_path / "sounds" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                stem = f"{split}_{label}_{number}"
                wavfile.write(folder / f"{stem}.wav", RATE, tone(300 + 1500 * label, seed=number))
                if split == "train":
                    (folder / f"{stem}.txt").write_text(f"the song of {name}, {number}")
    (tmp_path / "sounds" / "train" / NAMES[0] / "broken.wav").write_text("no sound")
    return tmp_path / "sounds"


def test_texts_and_sounds_are_read_as_by_transformers(clap: Path) -> None:
    model, tower = transformers.ClapModel.from_pretrained(clap).eval(), load_text_tower(f"clap:{clap}")
    assert isinstance(tower, Clap)
    texts, sound = ["the song of parus major", "merula"], tone(440)
    with torch.inference_mode():
        words = tower.tokenizer(texts, padding=True, return_tensors="pt")
        heard = tower.extractor(sound, sampling_rate=RATE, return_tensors="pt")
        mask = words["attention_mask"]
        text = model.get_text_features(input_ids=words["input_ids"], attention_mask=mask).pooler_output
        audio = model.get_audio_features(**heard).pooler_output
    np.testing.assert_allclose(tower.features(texts), text.numpy(), atol=1e-6)
    np.testing.assert_allclose(tower.sound_features(sound), audio[0].numpy(), atol=1e-6)
    assert tower.features(["a very long text " * 20]).shape == (1, 12)


def test_a_long_sound_is_heard_whole_and_always_alike(clap: Path) -> None:
    tower = Clap(str(clap))
    parts = [tone(pitch, 1.0, seed) for seed, pitch in enumerate((200, 900, 2500))]
    long = np.concatenate(parts)
    mean = np.mean([tower.sound_features(part) for part in parts], axis=0)
    found = tower.sound_features(long)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
    assert np.array_equal(found, tower.sound_features(long))
    assert np.array_equal(found, tower.sound_features(np.concatenate([long, tone(50, 0.5)])))  # a short rest
    assert not np.allclose(tower.sound_features(parts[0]), found, atol=1e-4)


def test_its_hashes_are_of_what_reads_and_of_what_hears(clap: Path) -> None:
    tower = Clap(str(clap))
    text, sound = tower.sha256, tower.sha256_of_sound
    tower.model.audio_projection.linear1.weight.data += 1
    assert tower.sha256 == text
    assert tower.sha256_of_sound != sound
    tower.model.text_projection.linear1.weight.data += 1
    assert tower.sha256 != text


def test_a_folder_of_sounds_is_embedded(
    clap: Path, sounds: Path, tmp_path: Path, umbel: Umbel, refused: Refused
) -> None:
    command = ["embed", f"clap:{clap}", "--data", sounds, "--device", "cpu", "--out"]
    code, said, err = umbel(*command, tmp_path / "out")
    assert code == 0, err
    assert "broken.wav: no .wav file that can be read" in said
    assert "22 embeddings of width 12" in said
    embeddings = Embeddings.load(tmp_path / "out")
    assert embeddings.classes == NAMES
    assert embeddings.splits == ("test", "train")
    row = embeddings.keys.index("train_1_5")
    assert (embeddings.label[row], embeddings.splits[embeddings.split[row]]) == (1, "train")
    file = sounds / "train" / NAMES[1] / "train_1_5.wav"
    np.testing.assert_array_equal(embeddings.features[row], Clap(str(clap)).sound_features(read_sound(file, RATE)))
    assert "already holds these embeddings" in umbel(*command, tmp_path / "out").out
    assert umbel(*command, tmp_path / "tests", "--splits", "test").code == 0
    assert len(Embeddings.load(tmp_path / "tests")) == 6
    assert "holds other embeddings" in refused(*command, tmp_path / "out", "--splits", "test")
    assert "has no split val" in refused(*command, tmp_path / "o", "--splits", "val")
    assert "embeds sounds: leave --tokens" in refused(*command, tmp_path / "o", "--tokens", "mean")
    (sounds / "test" / NAMES[0] / "train_1_5.wav").write_bytes(file.read_bytes())
    assert "have one name, which is the key" in refused(*command, tmp_path / "o")
    (tmp_path / "empty").mkdir()
    assert "holds no sounds (.wav)" in refused(
        "embed", f"clap:{clap}", "--data", tmp_path / "empty", "--out", tmp_path / "o"
    )
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("what", ["names", "captions"])
def test_sounds_are_found_by_words(what: str, clap: Path, sounds: Path, tmp_path: Path, umbel: Umbel) -> None:
    for command in (
        ["embed", f"clap:{clap}", "--data", sounds, "--device", "cpu", "--out", tmp_path / "e"],
        [
            *("hash", "fit", tmp_path / "e", "--pairs", what, "--texts", f"clap:{clap}", "--out", tmp_path / "coder"),
            *("--bits", 8, "--device", "cpu", "--crovca.least-steps", 300, "--crovca.weight", 0.02),
        ],
        ["hash", "encode", tmp_path / "coder", "--embeddings", tmp_path / "e", "--out", tmp_path / "codes"],
    ):
        code, said, err = umbel(*command)
        assert code == 0, err
    hasher, _ = load_hasher(tmp_path / "coder")
    assert isinstance(hasher, PairedCoder)
    text = "Turdus merula" if what == "names" else "the song of Turdus merula, 3"
    own = hasher.other.logits(Clap(str(clap)).features([text]))[0]
    assert np.array_equal(hasher.text_logits([text])[0], own)
    code, said, err = umbel("hash", "search", tmp_path / "codes", "--text", text, "--top", 4, "--json")
    assert code == 0, err
    distance = (unpack(Codes.load(tmp_path / "codes").packed, 8) != (own > 0)).sum(1)
    found = json.loads(said)[0]["found"]
    assert [row["hamming"] for row in found] == sorted(distance.tolist())[:4]
    assert {row["name"] for row in found} == {"Turdus merula"}
    code, said, err = umbel("hash", "evaluate", tmp_path / "codes", tmp_path / "e")
    assert code == 0, err
    assert "by words, towers alone" in said


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
def test_samples_of_every_kind_are_the_same_sound(kind: Any, tmp_path: Path) -> None:
    sound = tone(440)
    if kind == np.uint8:
        stored = (sound * 127 + 128).round().astype(np.uint8)
    else:
        stored = sound if kind == np.float32 else (sound.astype(np.float64) * np.iinfo(kind).max).astype(kind)
    wavfile.write(tmp_path / "a.wav", RATE, np.stack([stored, stored], axis=1))
    np.testing.assert_allclose(read_sound(tmp_path / "a.wav", RATE), sound, atol=0.01)


def test_another_rate_is_the_same_tone(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    wavfile.write(tmp_path / "a.wav", 44100, np.sin(2 * np.pi * 500 * time).astype(np.float32))
    found = read_sound(tmp_path / "a.wav", RATE)
    assert len(found) == RATE
    assert np.abs(np.fft.rfft(found)).argmax() == 500


def test_what_is_no_sound_is_told(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "empty.wav", RATE, np.empty(0, np.float32))
    whole = tmp_path / "whole.wav"
    wavfile.write(whole, RATE, tone(440))
    content = whole.read_bytes()
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "head.wav").write_bytes(content[:30])
    (tmp_path / "nothing.wav").write_bytes(b"")
    wavfile.write(tmp_path / "nan.wav", RATE, np.full(9, np.nan, np.float32))
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    fast = struct.pack("<II", 1_000_003, 4 * 1_000_003)  # a prime, so that a resampling filter is as long
    (tmp_path / "fast.wav").write_bytes(content[:24] + fast + content[32:])
    with pytest.raises(BadSoundError, match="tells of 1,000,003 samples a second"):
        read_sound(tmp_path / "fast.wav", RATE)
    for name in ("empty", "text", "head", "nothing", "nan", "nowhere", "cut"):
        with pytest.raises(BadSoundError):
            read_sound(tmp_path / f"{name}.wav", RATE)
    # What a recorder writes beside the sound is no matter.
    place = content.index(b"data")
    notes = b"note" + struct.pack("<I", 4) + b"abcd"
    (tmp_path / "notes.wav").write_bytes(content[:place] + notes + content[place:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_sound(tmp_path / "notes.wav", RATE), read_sound(whole, RATE))


@pytest.mark.parametrize("name", [b"a\nb.wav", b"\xff\xfe.wav"])
def test_a_name_that_cannot_be_a_key_is_refused(name: bytes, tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
        wavfile.write(file, RATE, tone(440))
    with pytest.raises(UserError, match="cannot be a key") as told:
        read_sounds(tmp_path)
    str(told.value).encode()


def test_a_sound_whose_features_are_not_finite_is_left_out(clap: Path, tmp_path: Path, umbel: Umbel) -> None:
    (tmp_path / "sounds").mkdir()
    wavfile.write(tmp_path / "sounds" / "loud.wav", RATE, (1e38 * tone(440)).astype(np.float32))
    wavfile.write(tmp_path / "sounds" / "good.wav", RATE, tone(440))
    command = ["embed", f"clap:{clap}", "--data", tmp_path / "sounds", "--device", "cpu", "--out", tmp_path / "out"]
    code, said, err = umbel(*command)
    assert code == 0, err
    assert "loud.wav: its features are not finite" in said
    assert Embeddings.load(tmp_path / "out").keys == ("good",)


def test_models_that_are_not_there_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "clap").mkdir()
    with pytest.raises(UserError, match=r"clap:.*clap cannot be loaded: ") as told:
        Clap(str(tmp_path / "clap"))
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="hears sounds and sees no photographs"):
        load("clap:some/model")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers, which is not here \(.*\): pip install 'umbel\[text\]'"):
        Clap(str(tmp_path / "clap"))
