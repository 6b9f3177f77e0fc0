"""What a classifier's logits are worth: accuracies, calibration before and after its temperature, what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umbel.evaluation.classification import calibration_error, macro, micro
from umbel.evaluation.estimates import Estimate

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Logits of photographs whose classes are known."""

    logits: NDArray[np.floating]  # (Q, K)
    truth: NDArray[np.int64]  # (Q,) columns

    @property
    def right(self) -> NDArray[np.bool_]:
        """(Q,) whether the likeliest class is the true one."""
        found: NDArray[np.bool_] = self.logits.argmax(1) == self.truth
        return found

    def confidence(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """(Q,) probability of the likeliest class."""
        scaled = self.logits.astype(np.float64) / temperature
        found: NDArray[np.float64] = 1 / np.exp(scaled - scaled.max(1, keepdims=True)).sum(1)
        return found

    def score(self) -> float:
        """Macro accuracy: the mean over the classes of the share that is right."""
        _, place, counts = np.unique(self.truth, return_inverse=True, return_counts=True)
        return float((np.bincount(place, weights=self.right) / counts).mean())

    def loss(self) -> float:
        """Mean cross entropy."""
        shifted = self.logits.astype(np.float64) - self.logits.max(1, keepdims=True)
        own = shifted[np.arange(len(shifted)), self.truth]
        return float((np.log(np.exp(shifted).sum(1)) - own).mean())

    def measures(self, temperature: float, threshold: float) -> dict[str, Estimate]:
        """All of it, with 95 % intervals.

        Args:
            temperature: of the confidence.
            threshold: confidence below which nothing is answered.
        """
        right, sure = self.right, self.confidence(temperature)
        found = {"top1": micro(right), "macro_top1": macro(self.truth, right)}
        if self.logits.shape[1] > TOP:
            own = self.logits[np.arange(len(self.truth)), self.truth]
            found["top5"] = micro((self.logits > own[:, None]).sum(1) < TOP)
        found["calibration_error_raw"] = calibration_error(self.confidence(), right)
        found["calibration_error"] = calibration_error(sure, right)
        answered = sure >= threshold
        found["answered"] = micro(answered)
        if answered.any():
            found["right_where_answered"] = micro(right[answered])
        return found
