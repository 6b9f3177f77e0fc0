"""HashCoder as specified: layers, initialization, running statistics, and its way through tensors."""

import numpy as np
import pytest
import torch
from torch import nn

from umbel.evaluation.hashing import HashCoder


def kinds(coder: HashCoder) -> list[str]:
    return [type(layer).__name__ for layer in coder.layers]


def test_the_small_one() -> None:
    coder = HashCoder(12, 5)
    assert kinds(coder) == ["Linear", "ReLU", "Linear", "BatchNorm1d"]
    assert [tuple(p.shape) for p in coder.parameters()] == [(12, 12), (12,), (5, 12), (5,)]


@pytest.mark.parametrize(("width", "hidden"), [(12, 2048), (1024, 2048), (1030, 2060)])
def test_the_large_one(width: int, hidden: int) -> None:
    coder = HashCoder(width, 5, size="large")
    assert kinds(coder) == ["Linear", "GELU", "Linear", "GELU", "Linear", "BatchNorm1d"]
    assert [tuple(p.shape) for p in coder.parameters() if p.dim() == 2] == [
        (hidden, width),
        (hidden, hidden),
        (5, hidden),
    ]


def test_the_originals_batch_normalization_is_an_option() -> None:
    plain, affine = HashCoder(12, 5), HashCoder(12, 5, affine=True)
    assert {name for name, _ in affine.named_parameters()} - {name for name, _ in plain.named_parameters()} == {
        "layers.3.weight",
        "layers.3.bias",
    }


def test_initialization() -> None:
    torch.manual_seed(0)
    first = HashCoder(400, 64).layers[0]
    assert isinstance(first, nn.Linear)
    assert float(first.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(first.weight.detach().mean()) == pytest.approx(0, abs=5e-4)
    assert not first.bias.any()


def test_encoding_uses_the_running_statistics_and_leaves_the_mode_alone() -> None:
    coder = HashCoder(6, 4).train()
    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    for _ in range(200):
        coder(torch.from_numpy(features))
    before = coder.tensors()
    logits = coder.logits(features)
    assert coder.training
    assert all(np.array_equal(value, before[name]) for name, value in coder.tensors().items())
    np.testing.assert_allclose(logits[:1], coder.logits(features[:1]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits.mean(0), 0, atol=1e-3)
    np.testing.assert_array_equal(coder.encode(features), logits > 0)
    assert coder.logits(features[:0]).shape == (0, 4)


def test_tensors_make_the_same_coder_again() -> None:
    coder = HashCoder(6, 4, affine=True)
    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    state = torch.get_rng_state()
    again = HashCoder.from_tensors(coder.settings(), coder.tensors())
    assert torch.equal(state, torch.get_rng_state())
    assert not again.training
    np.testing.assert_array_equal(again.logits(features), coder.logits(features))


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "type"])
def test_tensors_that_do_not_fit_are_refused(fault: str) -> None:
    coder = HashCoder(6, 4)
    tensors = coder.tensors()
    name = "layers.0.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "extra":
        tensors["more"] = tensors[name]
    else:
        tensors[name] = tensors[name][:, :5] if fault == "shape" else tensors[name].astype(np.float16)
    with pytest.raises(ValueError):
        HashCoder.from_tensors(coder.settings(), tensors)


@pytest.mark.parametrize("settings", [{"bits": 0}, {"width": 0}, {"size": "huge"}])
def test_impossible_sizes_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        HashCoder(**({"width": 6, "bits": 4} | settings))  # type: ignore[arg-type]
