"""Stochastic depth by batch subset: how many rows, which scale, unbiased, and where the gradient goes."""

import pytest
import torch
from torch import Tensor

from umbel.ssl.drop_path import Subset, add_branch, draw_subset

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("n", "rate", "kept"), [(10, 0.2, 8), (7, 0.2, 5), (5, 0.5, 2), (3, 0.1, 2), (2, 0.9, 1), (1, 0.2, 1)]
)
def test_a_branch_is_computed_for_a_subset_and_scaled(n: int, rate: float, kept: int) -> None:
    torch.manual_seed(0)
    seen: list[Tensor] = []

    def branch(rows: Tensor) -> Tensor:
        seen.append(rows)
        return rows.square() + 1

    x = torch.randn(n, 3, 4, dtype=torch.float64)
    subset = draw_subset(n, rate, CPU)
    out = add_branch(x, branch, subset)
    assert len(seen[0]) == kept == len(set(subset.rows.tolist()))
    assert subset.scale == n / kept
    for i in range(n):
        expected = x[i] + n / kept * (x[i].square() + 1) if i in subset.rows else x[i]
        torch.testing.assert_close(out[i], expected)


def test_no_subset_is_the_plain_residual() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(add_branch(x, torch.sin, None), x + torch.sin(x))


def test_a_branch_in_half_precision_is_added_in_that_of_the_stream() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    out = add_branch(x, lambda rows: rows.bfloat16(), Subset(torch.tensor([2, 0]), 2.0))
    assert out.dtype == torch.float32
    assert torch.equal(out[1], x[1])
    torch.testing.assert_close(out[2], x[2] + 2 * x[2].bfloat16().float())


def test_draws_differ_and_take_every_row() -> None:
    torch.manual_seed(0)
    draws = [tuple(sorted(draw_subset(8, 0.5, CPU).rows.tolist())) for _ in range(40)]
    assert len(set(draws)) > 20
    assert {row for rows in draws for row in rows} == set(range(8))
    torch.manual_seed(0)
    assert tuple(sorted(draw_subset(8, 0.5, CPU).rows.tolist())) == draws[0]


def test_the_mean_over_draws_is_the_whole_residual() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 2, dtype=torch.float64)
    outs = torch.stack([add_branch(x, torch.sin, draw_subset(6, 0.4, CPU)) for _ in range(4000)])
    # Each entry is 0 or 2 sin: deviation of its mean at most 0.016.
    torch.testing.assert_close(outs.mean(0), x + torch.sin(x), rtol=0, atol=0.07)


def test_the_gradient_goes_through_the_kept_rows_only() -> None:
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    out = add_branch(x, lambda rows: 3 * rows, Subset(torch.tensor([3, 1]), 2.0))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient[:, 0].tolist() == [1, 7, 1, 7]
