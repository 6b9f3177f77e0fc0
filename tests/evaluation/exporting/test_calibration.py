"""Temperature, threshold and class means against slow plain references."""

import numpy as np
import pytest

from umbel.evaluation.exporting.bundle_predict import scores_of, softmax
from umbel.evaluation.exporting.calibration import accepting, class_means, fit_head_temperature, fit_temperature


def loss(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    total = 0.0
    for row, column in zip(logits / temperature, truth, strict=True):
        total += np.log(np.exp(row - row.max()).sum()) - (row[column] - row.max())
    return total / len(truth)


@pytest.mark.parametrize("scale", [0.02, 1.0, 30.0])
def test_the_temperature_has_the_least_loss(scale: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, scale, (200, 5))
    truth = np.array([generator.choice(5, p=row) for row in softmax(logits / (2 * scale))])
    found = fit_temperature(logits, truth)
    grid = np.exp(np.linspace(np.log(0.1 * scale), np.log(20 * scale), 400))
    assert loss(logits, truth, found) <= min(loss(logits, truth, t) for t in grid) + 1e-9
    assert 1.3 * scale < found < 3 * scale


def test_confidence_of_answers_that_are_always_right_stays_finite() -> None:
    logits = np.eye(4)[np.arange(40) % 4]
    found = fit_temperature(logits, np.arange(40) % 4)
    assert 0 < found < 0.01
    assert np.isfinite(softmax(logits / found)).all()


@pytest.mark.parametrize("count", [20, 33, 100])
def test_the_threshold_accepts_95_percent_and_no_higher_one_does(count: int) -> None:
    similarity = np.random.default_rng(1).normal(size=count)
    found = accepting(similarity)
    assert (similarity >= found).mean() >= 0.95
    assert (similarity > found).mean() < 0.95


def test_logits_are_nearest_class_means() -> None:
    generator = np.random.default_rng(2)
    features = (generator.normal(size=(60, 8)) + 5).astype(np.float32)
    columns = np.arange(60) % 3
    mean, weight, bias = class_means(features, columns, 3)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    centered = unit - unit.mean(0)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    centers = np.stack([centered[columns == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(mean, unit.mean(0), atol=1e-6)
    np.testing.assert_allclose(weight, centers, atol=1e-6)
    asked = (generator.normal(size=(20, 8)) + 5).astype(np.float32)
    logits, similarity = scores_of(asked, mean=mean, weight=weight, bias=bias)
    for row, query in enumerate(asked):
        q = query / np.linalg.norm(query) - unit.mean(0)
        q /= np.linalg.norm(q)
        distances = ((q - centers) ** 2).sum(1)
        # -d^2 / 2 + |q|^2 / 2 is the logit.
        np.testing.assert_allclose(logits[row], (1 - distances) / 2, atol=1e-5)
        cosines = centers @ q / np.linalg.norm(centers, axis=1)
        assert similarity[row] == pytest.approx(cosines.max(), abs=1e-5)


def test_a_head_that_is_always_right_is_as_sure_as_its_photographs_allow() -> None:
    """Eight photographs, two classes, a margin of 3: the confidence comes to 1 - 1 / (8 + 2) / 2."""
    truth = np.arange(8) % 2
    logits = np.where(np.arange(2) == truth[:, None], 3.0, 0.0)
    temperature = fit_head_temperature(logits, truth)
    assert 1 / (1 + np.exp(-3 / temperature)) == pytest.approx(0.95, abs=1e-4)
    assert fit_temperature(logits, truth) < 0.1
    # Many photographs that are not all right decide by themselves.
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (4000, 5))
    truth = (logits / 2 + generator.gumbel(size=logits.shape)).argmax(1)
    assert fit_head_temperature(logits, truth) == pytest.approx(fit_temperature(logits, truth), rel=0.01)
