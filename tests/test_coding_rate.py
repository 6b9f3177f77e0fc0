"""The coding rate against the determinant written out, closed forms and published values, on one rank."""

import math

import pytest
import torch
from torch import Tensor

from umbel.coding_rate import coding_rate, coding_rate_weight


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(f: Tensor, eps: float) -> Tensor:
    """R of one matrix (m, D): half the log of the determinant, entry by entry, without Cholesky."""
    m, d = f.shape
    matrix = torch.eye(d, dtype=f.dtype)
    for a in range(d):
        for b in range(d):
            matrix[a, b] = matrix[a, b] + d / (m * eps) * sum(f[row, a] * f[row, b] for row in range(m))
    return torch.log(torch.linalg.det(matrix)) / 2


@pytest.mark.parametrize(("m", "d"), [(3, 5), (6, 4), (1, 3)])
@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_equals_the_determinant_written_out(m: int, d: int, eps: float) -> None:
    f = features(m, d).requires_grad_()
    ours, theirs = coding_rate(f, eps=eps), reference(f, eps)
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(ours, f)
    (expected,) = torch.autograd.grad(theirs, f)
    torch.testing.assert_close(gradient, expected)


def test_gradient_is_the_derivative() -> None:
    f = features(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: coding_rate(x, eps=0.05), (f,))


def test_leading_dimensions_are_independent_matrices() -> None:
    f = features(2, 3, 6, 4)
    rates = coding_rate(f, eps=0.1)
    assert rates.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(rates[i, j], reference(f[i, j], 0.1))


def test_order_of_rows_does_not_matter() -> None:
    f = features(7, 3)
    torch.testing.assert_close(coding_rate(f, eps=0.05), coding_rate(f.flip(0), eps=0.05))


@pytest.mark.parametrize(("bits", "best", "collapsed"), [
    (16, -1.617403, -0.191630),
    (32, -1.712544, -0.113608),
    (64, -1.902827, -0.069877),
])  # fmt: skip
def test_known_values_of_the_hashing_regularizer(bits: int, best: float, collapsed: float) -> None:
    # - R (p + m) / (p m) at m = 256, eps 0.05, over unit rows. At the optimum the rows spread evenly (U^T U = m/p I),
    # as the rows of p / m stacked orthogonal matrices do; collapsed rows are all the same.
    m = 256
    orthogonal = torch.linalg.qr(features(bits, bits)).Q
    weight = coding_rate_weight(m, bits)
    even = -weight * coding_rate(orthogonal.repeat(m // bits, 1), eps=0.05)
    same = -weight * coding_rate(orthogonal[:1].repeat(m, 1), eps=0.05)
    assert float(even) == pytest.approx(best, abs=1e-6)
    assert float(same) == pytest.approx(collapsed, abs=1e-6)


def test_orthonormal_rows_fewer_than_the_width() -> None:
    # F F^T = I: m eigenvalues 1 + D / (m eps), the others 1.
    m, d, eps = 4, 10, 0.05
    rows = torch.linalg.qr(features(d, m)).Q.T
    expected = m / 2 * math.log(1 + d / (m * eps))
    assert float(coding_rate(rows, eps=eps)) == pytest.approx(expected, rel=1e-12)


def test_zero_features_have_no_rate() -> None:
    assert float(coding_rate(torch.zeros(5, 3), eps=0.05)) == 0


def test_weight_is_that_of_the_paper() -> None:
    assert coding_rate_weight(128, 256) == pytest.approx((256 + 128) / (256 * 128))


def test_half_precision_is_computed_in_float32() -> None:
    f = features(6, 4).bfloat16()
    rate = coding_rate(f, eps=0.05)
    assert rate.dtype == torch.float32
    torch.testing.assert_close(rate.double(), reference(f.double(), 0.05), rtol=1e-5, atol=1e-5)


def test_autocast_does_not_reach_inside() -> None:
    f = features(6, 4).float()
    with torch.autocast("cpu", torch.bfloat16):
        under = coding_rate(f, eps=0.05)
    assert under.dtype == torch.float32
    assert torch.equal(under, coding_rate(f, eps=0.05))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_failed_factorization_gives_nan_and_spoils_no_neighbor(bad: float) -> None:
    f = features(2, 6, 4)
    f[1, 2, 3] = bad
    rates = coding_rate(f, eps=0.05)
    torch.testing.assert_close(rates[0], reference(f[0], 0.05))
    assert rates[1].isnan()


def test_a_matrix_that_is_not_positive_definite_gives_nan() -> None:
    # Rounding can do what a negative eps does here openly: make the matrix indefinite, every number finite.
    assert coding_rate(features(6, 4), eps=-0.05).isnan()
    # A singular one, 1 - 1 = 0, has minus infinity as its log: only the factorization's flag makes it NaN.
    assert coding_rate(torch.ones(1, 1), eps=-1.0).isnan()
