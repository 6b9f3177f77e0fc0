"""Class-balanced sampling: how often each sample comes in an epoch, a pure function of (seed, epoch, labels).

A class of n samples gets places in proportion to n^(1 - power): 0 as they come, 1 as many for each class.
"""

from __future__ import annotations

import numpy as np

from umbel.random_stream import Purpose, stream


class ClassBalance:
    """Deals an epoch's N places to the classes, and a class's places to its samples in turn.

    Args:
        labels: (N,) classes of the samples, from 0.
        power: 0 to 1.
    """

    def __init__(self, labels: np.ndarray, *, power: float, seed: int) -> None:
        self.seed = seed
        order = np.argsort(labels, kind="stable")
        _, starts = np.unique(labels[order], return_index=True)
        self.members = np.split(order, starts[1:])
        self.places = places_of_classes(np.array([len(own) for own in self.members]), power=power)

    def times(self, epoch: int) -> np.ndarray:
        """(N,) int64: how often each sample comes in an epoch.

        A class goes through its samples in passes, each in an order of its own, on from where the last epoch ended: no
        sample comes again before all others of its class came.
        """
        found = np.zeros(sum(map(len, self.members)), dtype=np.int64)
        for number, (own, places) in enumerate(zip(self.members, self.places.tolist(), strict=True)):
            first, last = epoch * places, (epoch + 1) * places  # of the class's places in all epochs
            for turn in range(first // len(own), -(-last // len(own))):
                begin, end = max(first - turn * len(own), 0), min(last - turn * len(own), len(own))
                found[own[self._pass(number, turn)[begin:end]]] += 1
        return found

    def order(self, order: np.ndarray, ends: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's order with every sample as often as it is to come, and the windows' ends in it.

        Args:
            order: (N,) samples, each once; ends: (number of windows,) positions behind each window.
        """
        times = self.times(epoch)
        parts = [np.repeat(part, times[part]) for part in np.split(order, ends[:-1])]
        generator = stream(self.seed, epoch, Purpose.BALANCE, view=len(self.members))
        # Copies of a sample must not stand behind one another; they stay within their window.
        return np.concatenate([generator.permutation(part) for part in parts]), np.cumsum([len(p) for p in parts])

    def _pass(self, number: int, turn: int) -> np.ndarray:
        return stream(self.seed, turn, Purpose.BALANCE, view=number).permutation(len(self.members[number]))


def places_of_classes(counts: np.ndarray, *, power: float) -> np.ndarray:
    """Places of each class in an epoch, (K,) int64, at least one each; their sum is that of the counts.

    Args:
        counts: (K,) samples of each class, none of them 0.
    """
    shares = counts ** (1.0 - power)
    exact = counts.sum() * shares / shares.sum()
    places: np.ndarray = np.maximum(np.floor(exact), 1).astype(np.int64)
    # The largest remainders get what is left; what the least took too much, the largest classes give back.
    rest = np.argsort(-(exact - np.floor(exact)), kind="stable")
    left = int(counts.sum() - places.sum())
    places[rest[: max(left, 0)]] += 1
    for _ in range(-left):
        places[np.argmax(places)] -= 1
    return places
