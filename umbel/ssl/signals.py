"""What may stop or disturb a training process: signals, remembered until the loop has saved, and garbage collection."""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Iterator
from types import FrameType
from typing import ClassVar

from umbel.run import EXIT_INTERRUPTED, EXIT_REQUEUE


class StopSignals:
    """Remembers SIGINT, SIGTERM and SIGUSR2, so that the loop can save before it stops."""

    EXIT_CODES: ClassVar = {
        signal.SIGINT: EXIT_INTERRUPTED,
        signal.SIGTERM: EXIT_REQUEUE,
        signal.SIGUSR2: EXIT_REQUEUE,
    }

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._remember) for number in self.EXIT_CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once, from the last checkpoint
        self.received = signal.Signals(number)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect at log points only: a collection in the middle of a step makes the other ranks wait."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
