"""A running average of a network's weights, which is validated and exported in their place.

Source: B. Polyak and A. Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992; exponential here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

STATISTICS = ("running_mean", "running_var")
"""Buffers of a batch norm."""


class WeightAverage:
    """average <- m average + (1 - m) weights, of all parameters that train; m rises to `momentum` with the steps.

    Batch norms' statistics are averaged alike: those of the last weights are not those of the averaged ones.
    After t steps m is at most (1 + t) / (10 + t), so that first weights are forgotten in short runs too.
    """

    def __init__(self, network: nn.Module, momentum: float) -> None:
        self.momentum = momentum
        self.weights: dict[str, Tensor] = {n: p for n, p in network.named_parameters() if p.requires_grad}
        statistics = {n: b for n, b in network.named_buffers() if n.rpartition(".")[2] in STATISTICS}
        self.weights |= statistics if self.weights else {}
        self.averages = {n: p.detach().clone() for n, p in self.weights.items()} if momentum else {}

    @torch.no_grad()
    def update(self, step: int, bad: Tensor) -> None:
        """Take a step in.

        Args:
            step: steps completed with this one.
            bad: 0-d float32 on the device: where it is 1 the average stays.
        """
        if not self.averages:
            return
        kept = min(self.momentum, (1 + step) / (10 + step))
        weight = (1 - kept) * (1 - bad)
        averages: Any = list(self.averages.values())
        now: Any = [self.weights[name] for name in self.averages]
        torch._foreach_lerp_(averages, now, [weight.to(p.dtype) for p in averages])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network have the averages inside a `with` statement; without averages it is as it is."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, average in self.averages.items():
            weight = self.weights[name]
            weight.data, average.data = average.data, weight.data

    def state_dict(self) -> dict[str, Tensor]:
        """The averages."""
        return self.averages

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up averages that were saved.

        Raises:
            ValueError: they are of another network.
        """
        if state.keys() != self.averages.keys():
            raise ValueError("its averaged weights are of other parameters")
        for name, average in self.averages.items():
            average.copy_(state[name])
