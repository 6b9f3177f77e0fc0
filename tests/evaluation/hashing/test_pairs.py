"""Two modalities in one Hamming space: pairs come together, and a stored pair of coders is read as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing import CrovcaConfig, load_hasher, save_hasher
from umbel.evaluation.hashing.pair_sources import pair_with
from umbel.evaluation.hashing.pairs import PairedCoder, fit_pairs
from umbel.evaluation.hashing.text_features import text_features
from umbel.run import UserError

QUICK = CrovcaConfig(batch=64, epochs=1, least_steps=300)


def modalities(count: int = 256, classes: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """(2, N, 16) of observations, (3, L, 24) of classes in another space, (N,) classes."""
    generator = torch.Generator().manual_seed(0)
    of = torch.arange(count) % classes
    first, second = (3 * torch.randn((classes, width), generator=generator) for width in (16, 24))
    observations = first[of] + torch.randn((2, count, 16), generator=generator)
    return observations, second + 0.5 * torch.randn((3, classes, 24), generator=generator), of


def test_an_observations_code_is_nearest_to_its_descriptions() -> None:
    observations, descriptions, of = modalities()
    coder = fit_pairs(observations, descriptions, of, bits=16, reads="embeddings", config=QUICK)
    codes, others = coder.encode(observations[0].numpy()), coder.other.encode(descriptions[1].numpy())
    distance = (codes[:, None] != others[None]).sum(-1)
    assert (distance.argmin(1) == of.numpy()).mean() > 0.8  # 0.125 by chance
    assert not coder.coder.training
    assert not coder.other.training


def test_the_seed_decides() -> None:
    observations, descriptions, of = modalities()
    config = CrovcaConfig(batch=64, epochs=1, least_steps=3)
    first, again, other = (
        fit_pairs(observations, descriptions, of, bits=8, reads="embeddings", seed=seed, config=config).tensors()
        for seed in (0, 0, 1)
    )
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_stored_and_read_again_it_is_the_same(tmp_path: Path) -> None:
    names = ["Rosa canina", "Quercus robur", "Salvia pratensis"]
    texts = torch.from_numpy(text_features(names, 64))[None]
    observations = torch.randn((1, 30, 5), generator=torch.Generator().manual_seed(0))
    config = CrovcaConfig(batch=8, least_steps=5)
    coder = fit_pairs(observations, texts, torch.arange(30) % 3, bits=9, reads="text", config=config)
    save_hasher(tmp_path / "coder", coder, {"told": 1})
    read, provenance = load_hasher(tmp_path / "coder")
    assert isinstance(read, PairedCoder)
    assert provenance == {"told": 1}
    assert (read.method, read.width, read.bits, read.reads) == ("crovca-pairs", 5, 9, "text")
    features = observations[0].numpy()
    assert np.array_equal(read.logits(features), coder.logits(features))
    assert np.array_equal(read.encode(features), read.logits(features) > 0)
    assert np.array_equal(read.text_logits(names), coder.other.logits(texts[0].numpy()))


def test_a_coder_of_embeddings_reads_no_text() -> None:
    observations, descriptions, of = modalities(64)
    coder = fit_pairs(observations, descriptions, of, bits=8, reads="embeddings", config=CrovcaConfig(least_steps=0))
    with pytest.raises(ValueError, match="not on texts"):
        coder.text_logits(["Rosa"])


@pytest.mark.parametrize("change", ["reads", "bits", "missing"])
def test_parts_that_do_not_fit_together_are_refused(change: str, tmp_path: Path) -> None:
    observations, descriptions, of = modalities(64)
    coder = fit_pairs(observations, descriptions, of, bits=8, reads="embeddings", config=CrovcaConfig(least_steps=0))
    settings, tensors = coder.settings(), coder.tensors()
    if change == "reads":
        settings["reads"] = "smell"
    elif change == "bits":
        settings["other"] = settings["other"] | {"bits": 9}
    else:
        del tensors["other.layers.0.bias"]
    with pytest.raises(ValueError, match=r"smell|size mismatch|Missing key"):
        PairedCoder.from_tensors(settings, tensors)


def test_one_pair_is_too_few() -> None:
    with pytest.raises(UserError, match="at least 2 photographs"):
        fit_pairs(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), torch.zeros(1, dtype=torch.int64), bits=4, reads="text")


def test_partners_are_found_by_key_whatever_their_order(tmp_path: Path) -> None:
    def embeddings(keys: list[str], width: int) -> Embeddings:
        features = np.array([[float(ord(key))] * width for key in keys], np.float32)
        zeros = np.zeros(len(keys), np.int64)
        return Embeddings(features=features, label=zeros, split=zeros, keys=tuple(keys), splits=("train",), classes=())

    embeddings(["d", "b", "x", "a"], 2).save(tmp_path / "sounds")
    pairs = pair_with(str(tmp_path / "sounds"), embeddings(["a", "b", "c", "d"], 3), None)
    assert pairs.rows.tolist() == [0, 1, 3]
    assert pairs.others[0, pairs.of].tolist() == [[float(ord(key))] * 2 for key in "abd"]
    assert pairs.reads == "embeddings"
