"""Averaged weights against a loop in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from umbel.ssl.weight_average import WeightAverage


def test_it_is_a_running_average_that_warms_up_and_leaves_bad_steps_out() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2).double()
    average = WeightAverage(network, 0.7)
    expected = network.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            network.weight += torch.randn(2, 3, dtype=torch.float64)
        bad = step % 5 == 0
        average.update(step, torch.tensor(float(bad)))
        if not bad:
            momentum = min(0.7, (1 + step) / (10 + step))
            expected = momentum * expected + (1 - momentum) * network.weight.detach()
    torch.testing.assert_close(average.averages["weight"], expected, rtol=1e-6, atol=1e-6)
    now = network.weight.detach().clone()
    parameter = network.weight
    with average.in_place():
        assert network.weight is parameter
        torch.testing.assert_close(network.weight.detach(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(network.weight.detach(), now)


def test_what_does_not_train_has_no_average() -> None:
    network = nn.Linear(3, 2)
    network.weight.requires_grad_(False)
    assert set(WeightAverage(network, 0.5).averages) == {"bias"}
    none = WeightAverage(network, 0.0)
    before = network.bias.detach().clone()
    with none.in_place():
        assert torch.equal(network.bias.detach(), before)
    with pytest.raises(ValueError, match="other parameters"):
        none.load_state_dict({"bias": torch.zeros(2)})


def test_statistics_of_batch_norms_are_those_of_the_averaged_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    network.register_buffer("other", torch.zeros(1))  # a learner's own state is not a network's
    average = WeightAverage(network, 0.9)
    norm: nn.BatchNorm1d = network[1]  # type: ignore[assignment]
    mean, variance = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for step in range(1, 12):
        network(torch.randn(8, 3, generator=generator, dtype=torch.float64) * step)
        average.update(step, torch.tensor(0.0))
        kept = min(0.9, (1 + step) / (10 + step))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean = kept * mean + (1 - kept) * norm.running_mean
        variance = kept * variance + (1 - kept) * norm.running_var
    last = norm.running_var.clone()  # type: ignore[union-attr]
    with average.in_place():
        state = network.state_dict()
        torch.testing.assert_close(state["1.running_mean"], mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(state["1.running_var"], variance, rtol=1e-6, atol=1e-6)
    assert torch.equal(network.state_dict()["1.running_var"], last)
    assert "other" not in average.averages
    network.requires_grad_(False)
    assert WeightAverage(network, 0.9).averages == {}
