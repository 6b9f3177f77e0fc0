"""Each loss of a distillation and its gradient against a slow reference, one photograph after the other in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from umbel.ssl.distillation.cosine import cosine_distance
from umbel.ssl.distillation.dist import dist_loss
from umbel.ssl.distillation.logits import logit_divergence, standardize_logits
from umbel.ssl.distillation.relational import relational_loss

B, D, K, Q = 5, 6, 4, 7


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_same(loss: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Value and gradient."""
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = loss(ours), reference(theirs)
    torch.testing.assert_close(found, expected)
    assert found.abs() > 1e-3
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad is not None
    assert ours.grad.abs().max() > 1e-4


def length(x: Tensor) -> Tensor:
    return (x * x).sum().sqrt()


def softmax(x: Tensor) -> list[Tensor]:
    weights = [value.exp() for value in x]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("shape", [(B, D), (B, 3, D)], ids=["pooled", "patches"])
def test_cosine(shape: tuple[int, ...]) -> None:
    teacher = draw(*shape, seed=1)

    def reference(x: Tensor) -> Tensor:
        pairs = list(zip(x.reshape(-1, D), teacher.reshape(-1, D), strict=True))
        return sum((1 - (a * b).sum() / (length(a) * length(b)) for a, b in pairs), torch.zeros(())) / len(pairs)

    assert_same(lambda x: cosine_distance(x, teacher), reference, draw(*shape))


@pytest.mark.parametrize("held", [Q, 3], ids=["full queue", "half filled"])
def test_relational(held: int) -> None:
    teacher, queue = draw(B, D, seed=1), draw(Q, D, seed=2)
    filled = torch.arange(Q) < held

    def reference(x: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for own, seen in zip(x, teacher, strict=True):
            p, q = (
                softmax(torch.stack([(one * k).sum() / (length(one) * length(k)) / 0.07 for k in queue[:held]]))
                for one in (seen, own)
            )
            total = total + sum(a * (a / b).log() for a, b in zip(p, q, strict=True))
        return total / B

    assert_same(lambda x: relational_loss(x, teacher, queue, filled), reference, draw(B, D))


def test_relational_without_any_feature_is_0_and_finite() -> None:
    student = draw(B, D).requires_grad_()
    loss = relational_loss(student, draw(B, D, seed=1), torch.zeros(Q, D).double(), torch.zeros(Q) > 0)
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_logit_divergence(temperature: float) -> None:
    teacher = 3 * draw(B, K, seed=1)

    def reference(x: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for own, seen in zip(x, teacher, strict=True):
            p, q = softmax(seen / temperature), softmax(own / temperature)
            total = total + sum(a * (a / b).log() for a, b in zip(p, q, strict=True))
        return temperature * temperature * total / B

    assert_same(lambda x: logit_divergence(x, teacher, temperature=temperature), reference, 3 * draw(B, K))


def test_standardized_logits() -> None:
    weights = draw(B, K, seed=1)

    def reference(x: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for row, by in zip(x, weights, strict=True):
            mean = sum(row) / K
            deviation = (sum((v - mean) ** 2 for v in row) / K).sqrt()
            total = total + sum(w * (v - mean) / deviation for w, v in zip(by, row, strict=True))
        return total

    assert_same(lambda x: (standardize_logits(x) * weights).sum(), reference, 3 * draw(B, K))
    # The size and place of logits make no difference.
    torch.testing.assert_close(standardize_logits(7 * draw(B, K) + 3), standardize_logits(draw(B, K)))
    assert standardize_logits(torch.ones(2, K)).isfinite().all()


def pearson(x: list[Tensor], y: list[Tensor]) -> Tensor:
    n = len(x)
    mx, my = sum(x) / n, sum(y) / n
    above = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    below = sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y)
    return above / torch.as_tensor(below).sqrt()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_dist(temperature: float) -> None:
    teacher = 3 * draw(B, K, seed=1)

    def reference(x: Tensor) -> Tensor:
        own, seen = ([softmax(row / temperature) for row in rows] for rows in (x, teacher))
        within = sum(1 - pearson(a, b) for a, b in zip(own, seen, strict=True)) / B
        columns = [([row[k] for row in own], [row[k] for row in seen]) for k in range(K)]
        between = sum(1 - pearson(a, b) for a, b in columns) / K
        return torch.as_tensor(temperature**2 * (within + between))

    assert_same(lambda x: dist_loss(x, teacher, temperature=temperature), reference, 3 * draw(B, K))


def test_dist_of_logits_that_do_not_vary_has_a_finite_gradient() -> None:
    student = torch.zeros(B, K, requires_grad=True)
    loss = dist_loss(student, draw(B, K).float(), temperature=2.0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_losses_are_in_float32_whatever_the_precision() -> None:
    half = draw(B, D).bfloat16()
    queue, filled = draw(Q, D).bfloat16(), torch.ones(Q, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for loss in (
            cosine_distance(half, half),
            relational_loss(half, half, queue, filled),
            logit_divergence(half, half, temperature=2.0),
            dist_loss(half, half, temperature=2.0),
        ):
            assert loss.dtype == torch.float32
            assert abs(loss) < 1e-5  # a student that says what the teacher says has nothing to learn
