"""The CroVCA loss against its definition written out, its published values, and its derivative."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from umbel.evaluation.hashing import crovca_loss


def views(count: int, batch: int, bits: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn((count, batch, bits), generator=generator, dtype=torch.float64))


def reference(logits: list[Tensor], eps: float, weight: float) -> tuple[float, float, float]:
    """The definition, number by number."""
    pairs = []
    for i, j in itertools.permutations(range(len(logits)), 2):
        terms = []
        for z, other in zip(logits[i].flatten().tolist(), logits[j].flatten().tolist(), strict=True):
            probability = 1 / (1 + math.exp(-z))
            terms.append(-math.log(probability if other > 0 else 1 - probability))
        pairs.append(sum(terms) / len(terms))
    alignment = sum(pairs) / len(pairs)
    m, p = logits[0].shape
    rates = []
    for z in logits:
        unit = torch.stack([row / row.norm() for row in z])
        rates.append(float(torch.logdet(torch.eye(p, dtype=z.dtype) + p / (m * eps) * unit.T @ unit)) / 2)
    regularizer = -sum(rates) / len(rates) * (p + m) / (p * m)
    return alignment + weight * regularizer, alignment, regularizer


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize(("eps", "weight"), [(0.05, 0.1), (0.3, 2.0)])
def test_equals_the_definition_written_out(count: int, eps: float, weight: float) -> None:
    logits = views(count, 6, 5)
    ours = crovca_loss(logits, eps=eps, weight=weight)
    assert [float(term) for term in ours] == pytest.approx(reference(logits, eps, weight), rel=1e-12)


def test_the_defaults_are_the_papers() -> None:
    logits = views(2, 6, 5)
    assert [float(t) for t in crovca_loss(logits)] == pytest.approx(reference(logits, 0.05, 0.1), rel=1e-12)


@pytest.mark.parametrize(("bits", "best", "collapsed"), [
    (16, -1.617403, -0.191630),
    (32, -1.712544, -0.113608),
    (64, -1.902827, -0.069877),
])  # fmt: skip
def test_published_values(bits: int, best: float, collapsed: float) -> None:
    # Known for m = 256. The regularizer is least where U^T U = m / p I: a Hadamard matrix's rows, m / p times each.
    # Confident and agreed on by both views, they cost no alignment, and the total is a tenth of the regularizer.
    hadamard = torch.ones((1, 1), dtype=torch.float64)
    while len(hadamard) < bits:
        hadamard = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), hadamard)
    even = 60 * hadamard.repeat(256 // bits, 1)
    for logits, value in ((even, best), (even[:1].repeat(256, 1), collapsed)):
        total, alignment, regularizer = (float(term) for term in crovca_loss([logits, logits]))
        assert regularizer == pytest.approx(value, abs=5e-7)
        assert alignment < 1e-20
        assert total == pytest.approx(0.1 * value, abs=5e-8)


def test_gradient_is_the_derivative() -> None:
    logits = [z.requires_grad_() for z in views(3, 4, 3)]
    assert torch.autograd.gradcheck(lambda *z: crovca_loss(list(z)), logits)


def test_targets_get_no_gradient() -> None:
    # The alignment's gradient with respect to z_i is (sigmoid(z_i) - b_j) / (m p) over the pairs, and nothing from b.
    first, second = (z.requires_grad_() for z in views(2, 4, 3))
    crovca_loss([first, second])[1].backward()
    assert first.grad is not None
    expected = (first.sigmoid() - (second > 0).double()) / (2 * first.numel())
    torch.testing.assert_close(first.grad, expected.detach())


def test_views_are_exchangeable() -> None:
    logits = views(3, 6, 5)
    torch.testing.assert_close(crovca_loss(logits), crovca_loss(logits[::-1]))


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    logits = [z.bfloat16() for z in views(2, 6, 5)]
    with torch.autocast("cpu", torch.bfloat16):
        ours = crovca_loss(logits)
    assert {term.dtype for term in ours} == {torch.float32}
    exact = reference([z.double() for z in logits], 0.05, 0.1)
    assert [float(term) for term in ours] == pytest.approx(exact, rel=1e-5)


def test_large_logits_stay_finite_and_zero_rows_count_as_nothing() -> None:
    assert all(term.isfinite() for term in crovca_loss([z * 1e6 for z in views(2, 6, 5)]))
    zero = torch.zeros((4, 3))
    assert float(crovca_loss([zero, zero])[2]) == 0
    assert float(crovca_loss([zero, zero])[1]) == pytest.approx(math.log(2))


def test_what_is_not_finite_shows() -> None:
    logits = views(2, 6, 5)
    logits[1][2, 3] = math.nan
    assert crovca_loss(logits)[0].isnan()


@pytest.mark.parametrize("shapes", [[], [(4, 3)], [(4, 3), (4, 2)], [(4, 3), (5, 3)], [(3,), (3,)]])
def test_views_that_do_not_fit_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="at least 2 views of one shape"):
        crovca_loss([torch.zeros(shape) for shape in shapes])
