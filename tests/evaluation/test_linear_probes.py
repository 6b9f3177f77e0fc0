"""Logistic regression equals scikit-learn's, the SGD grid a plain loop with autograd; both choose rightly."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from umbel.evaluation import logistic as logistic_module
from umbel.evaluation.holdout import hold_out
from umbel.evaluation.linear import linear, train_grid
from umbel.evaluation.logistic import fit, logistic
from umbel.evaluation.standardize import Standardize


def task(count: int = 120, width: int = 6, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centers = np.random.default_rng(7).normal(size=(classes, width))
    return torch.from_numpy(generator.normal(size=(count, width)) + centers[labels]), labels


@pytest.mark.parametrize("strength", [0.01, 1.0])
@pytest.mark.parametrize("chunk", [20, 1 << 24])
def test_the_fit_equals_scikit_learns(strength: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic_module, "CHUNK", chunk)
    x, labels = task()
    oracle = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(x.numpy(), labels)
    weights = fit(x, torch.from_numpy(labels), 4, strength=strength, steps=5000)
    probability = (x @ weights[:-1] + weights[-1]).softmax(1)
    np.testing.assert_allclose(probability.numpy(), oracle.predict_proba(x.numpy()), atol=2e-4)
    # Softmax weights are told up to a constant; the penalty fixes that of the weights, not of the biases.
    np.testing.assert_allclose(weights[:-1].T.numpy(), oracle.coef_, atol=2e-3)


def test_the_strength_is_the_best_on_validation_data() -> None:
    x, labels = task(count=90, width=12)
    validation = hold_out(labels, share=0.3, seed=0)
    chosen = logistic(x, labels + 5, validation, strengths=(1e-4, 1.0, 1e-2))
    prepare = Standardize(x[torch.from_numpy(~validation)])
    for strength, accuracy in chosen.tried.items():
        oracle = LogisticRegression(C=strength, tol=1e-9, max_iter=5000)
        oracle.fit(prepare(x[torch.from_numpy(~validation)]).double().numpy(), labels[~validation])
        assert accuracy == oracle.score(prepare(x[torch.from_numpy(validation)]).double().numpy(), labels[validation])
    assert len(set(chosen.tried.values())) > 1
    best = max(chosen.tried.values())
    assert chosen.setting == min(strength for strength, accuracy in chosen.tried.items() if accuracy == best)
    assert chosen.classes.tolist() == [5, 6, 7, 8]
    # The final fit is on all images.
    everything = Standardize(x)
    oracle = LogisticRegression(C=chosen.setting, tol=1e-9, max_iter=5000).fit(everything(x).double().numpy(), labels)
    want = oracle.predict_proba(everything(x).double().numpy())
    np.testing.assert_allclose(chosen.probabilities(x).numpy(), want, atol=2e-3)


def test_the_grid_equals_a_plain_loop_with_automatic_gradients() -> None:
    x, labels = task(count=50)
    x, y = x.float(), torch.from_numpy(labels)
    rates = (0.05, 2.0)
    weights, bias = train_grid(x, y, 4, rates=rates, epochs=3, batch=16, seed=3)
    for number, rate in enumerate(rates):
        generator = torch.Generator().manual_seed(3)
        w = (0.01 * torch.randn((6, 1, 4), generator=generator))[:, 0].clone().requires_grad_()
        b = torch.zeros(4, requires_grad=True)
        optimizer = torch.optim.SGD([w, b], lr=rate * 16 / 256, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
        for _ in range(3):
            for rows in torch.randperm(50, generator=generator)[:48].view(3, 16):
                optimizer.zero_grad()
                cross_entropy(x[rows] @ w + b, y[rows]).backward()
                optimizer.step()
                schedule.step()
        torch.testing.assert_close(weights[:, number], w.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bias[number], b.detach(), rtol=1e-4, atol=1e-5)


def test_the_best_rate_of_the_grid_is_taken() -> None:
    x, labels = task(count=200)
    validation = hold_out(labels, share=0.2, seed=0)
    chosen = linear(x, labels, validation, seed=0, rates=(1e-6, 1.0), epochs=4, batch=20)
    assert chosen.tried[1.0] > chosen.tried[1e-6] + 0.1
    assert chosen.setting == 1.0
    asked = torch.from_numpy(validation)
    hit = chosen.probabilities(x[asked]).argmax(1).numpy() == labels[validation]
    assert hit.mean() == pytest.approx(chosen.tried[1.0])


@pytest.mark.parametrize("wrong", [np.zeros(6, dtype=bool), np.ones(6, dtype=bool)])
def test_without_images_to_choose_or_fit_by_there_is_an_error(wrong: np.ndarray) -> None:
    x, labels = torch.randn(6, 2), np.arange(6) % 2
    with pytest.raises(ValueError, match="needs images to fit and to choose by"):
        logistic(x, labels, wrong)
    with pytest.raises(ValueError, match="needs images to train and to choose by"):
        linear(x, labels, wrong, seed=0)


def test_constant_numbers_become_zero_and_the_rest_is_standardized() -> None:
    x = torch.tensor([[3.0, 4, 0], [4, 3, 0], [-3, 4, 0]])
    made = Standardize(x)(x)
    torch.testing.assert_close(made.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(made.square().mean(0), torch.tensor([1.0, 1, 0]))


def test_a_share_of_every_class_is_held_out_at_random() -> None:
    labels = np.array([2] * 10 + [0] * 5 + [7] * 2 + [5])
    aside = hold_out(labels, share=0.3, seed=0)
    assert {label: int(aside[labels == label].sum()) for label in (2, 0, 7, 5)} == {2: 3, 0: 2, 7: 1, 5: 0}
    assert (hold_out(labels, share=0.3, seed=1) != aside).any()
    times = sum(hold_out(labels, share=0.3, seed=seed).astype(int) for seed in range(300))
    assert abs(times[:10] - 90).max() < 5 * np.sqrt(300 * 0.3 * 0.7)
    assert hold_out(np.array([0, 0]), share=0.99, seed=0).sum() == 1
