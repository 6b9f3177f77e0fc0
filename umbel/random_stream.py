"""Random numbers that depend on what they are for, never on who draws them or when.

A Philox stream (numpy) is addressed by (seed, epoch, purpose, view, position). Any process can open it at any position,
so sample order, views and masks do not change with world size, workers or accumulation.
"""

from __future__ import annotations

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """What a stream is drawn for; two purposes never share numbers."""

    ORDER = 0
    VIEWS = 1
    MASKS = 2
    MODEL = 3
    MIX = 4
    BALANCE = 5


def stream(seed: int, epoch: int, purpose: Purpose, *, view: int = 0, block: int = 0) -> np.random.Generator:
    """A generator at counter `block` of the stream (seed, epoch, purpose, view)."""
    counter = np.array([block, view, int(purpose), 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64), counter=counter))


def position_uniforms(
    seed: int, epoch: int, purpose: Purpose, *, view: int, first: int, count: int, draws: int
) -> np.ndarray:
    """Uniform numbers in [0, 1) for the positions first .. first + count - 1 of an epoch.

    Row i depends on position first + i alone: a counter step of Philox gives four numbers, and every position owns
    ceil(draws / 4) steps.

    Returns:
        (count, draws) float64.
    """
    steps = -(-draws // 4)
    generator = stream(seed, epoch, purpose, view=view, block=first * steps)
    return generator.random((count, steps * 4))[:, :draws]
