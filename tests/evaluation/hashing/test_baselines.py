"""The baselines against the published table on scikit-learn's digits, and their properties."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from umbel.evaluation.hashing import BASELINES, Convention, make_task, score_features, score_hasher
from umbel.evaluation.hashing.baselines import random_rotation
from umbel.run import UserError

# mAP@100 in %, and how far it may be from it (PCA is not random: its last digit); symmetric, ties by index, found.
DIGITS = [
    (8, "lsh", 40.6, 2.4), (8, "pca", 56.8, 0.06), (8, "pca-rotation", 61.3, 2.2), (8, "itq", 69.0, 0.6),
    (16, "lsh", 55.4, 3.4), (16, "pca", 61.1, 0.06), (16, "pca-rotation", 70.1, 1.6), (16, "itq", 79.0, 0.8),
    (32, "lsh", 68.5, 0.9), (32, "pca", 59.8, 0.06), (32, "pca-rotation", 75.6, 1.3), (32, "itq", 83.2, 0.4),
]  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features centered on the database, labels, splits: every fifth row is a query (test), the rest the database."""
    features, label = load_digits(return_X_y=True)
    split = (np.arange(len(label)) % 5 == 0).astype(np.int64)
    return features - features[split == 0].mean(0), label.astype(np.int64), split


@pytest.mark.parametrize(("bits", "method", "published", "deviation"), DIGITS)
def test_the_table_on_digits(
    bits: int, method: str, published: float, deviation: float, digits: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    features, label, split = digits
    task = make_task(label, split, ("train", "test"))
    found = []
    for seed in range(1 if method == "pca" else 10):
        hasher = BASELINES[method](bits, seed=seed).fit(features[task.database])
        found.append(100 * score_hasher(method, hasher, features, task, Convention(k=100))[0].map)
    assert np.mean(found) == pytest.approx(published, abs=deviation)


def test_cosine_on_digits(digits: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    features, label, split = digits
    scores = score_features(features, make_task(label, split, ("train", "test")), Convention(k=100))
    assert [round(100 * score.map, 1) for score in scores] == [87.2, 87.2]


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=(300, 12)) @ generator.normal(size=(12, 12)) + 5).astype(np.float32)


@pytest.mark.parametrize("method", BASELINES)
def test_the_interface(method: str, features: np.ndarray) -> None:
    one, again, other = (BASELINES[method](7, seed=seed).fit(features) for seed in (0, 0, 1))
    bits = one.encode(features)
    assert bits.shape == (300, 7)
    assert bits.dtype == bool
    np.testing.assert_array_equal(bits, one.logits(features) > 0)
    np.testing.assert_array_equal(bits, again.encode(features))
    assert np.array_equal(bits, other.encode(features)) == (method == "pca")
    # Centered by the fit's own mean, at one scale for all methods.
    np.testing.assert_allclose(one.logits(features).mean(0), 0, atol=1e-4)
    assert np.square(one.logits(features)).mean() == pytest.approx(1, rel=1e-4)


def test_principal_components_are_those_of_scikit_learn(features: np.ndarray) -> None:
    ours = BASELINES["pca"](5).fit(features).projection
    theirs = PCA(5).fit(features).components_.T
    np.testing.assert_allclose(np.abs((ours / np.linalg.norm(ours, axis=0) * theirs).sum(0)), 1, rtol=1e-4)


def test_itq_lies_closer_to_its_signs_than_a_random_rotation(features: np.ndarray) -> None:
    def error(method: str, seed: int) -> float:
        logits = BASELINES[method](8, seed=seed).fit(features).logits(features)
        return float(np.square(np.abs(logits) - 1).mean())

    assert max(error("itq", seed) for seed in range(5)) < min(error("pca-rotation", seed) for seed in range(5))


def test_rotations_are_orthogonal() -> None:
    rotation = random_rotation(9, np.random.default_rng(0))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(9), atol=1e-12)


@pytest.mark.parametrize("method", ["itq", "pca", "pca-rotation"])
def test_more_bits_than_components_are_refused(method: str, features: np.ndarray) -> None:
    with pytest.raises(UserError, match="at most 12 bits of features of width 12, not 13"):
        BASELINES[method](13).fit(features)


def test_hyperplanes_have_no_bound(features: np.ndarray) -> None:
    assert BASELINES["lsh"](100).fit(features).encode(features).shape == (300, 100)


@pytest.mark.parametrize("fit", [lambda h: h.fit(np.zeros((1, 4))), lambda h: h.fit(np.zeros(4))])
def test_one_photograph_is_too_few(fit: Callable[..., object]) -> None:
    with pytest.raises(UserError, match="at least 2 photographs"):
        fit(BASELINES["lsh"](4))


@pytest.mark.parametrize("method", BASELINES)
def test_equal_features_give_codes_all_the_same(method: str) -> None:
    codes = BASELINES[method](3).fit(np.ones((5, 4), np.float32)).encode(np.ones((5, 4), np.float32))
    assert (codes == codes[0]).all()


def test_bits_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="bits must be at least 1"):
        BASELINES["itq"](0)
