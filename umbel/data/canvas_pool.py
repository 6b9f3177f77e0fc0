"""Memory for canvases that data workers share with the trainer and use again.

Pages that a system hands out anew cost nearly half as much as decoding. A canvas is lent to the trainer until its last
tensor is gone; a worker without a free place takes new memory. Workers must be forked: they inherit the mapping.
"""

from __future__ import annotations

import itertools
import math
import mmap
import multiprocessing
import os
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from umbel.machine import device_memory
from umbel.run import say

PLACES = 6
"""Canvases of a worker: those that a DataLoader keeps in flight, one in use and one behind it."""
MIB = 1024**2
SHARE = 0.25
"""Of the machine's memory that a pool may take at most."""
_numbers = itertools.count()
_pools: weakref.WeakValueDictionary[int, CanvasPool] = weakref.WeakValueDictionary()


class CanvasPool:
    """Places for canvases of at most `room` bytes: `PLACES` for each worker.

    A batch that arrives needs its pool: whoever reads from the workers holds it for as long.

    Raises:
        OSError: the system does not give so much memory.
    """

    def __init__(self, workers: int, room: int) -> None:
        # Anonymous and shared: pages are there when they are first written, and /dev/shm does not bound them.
        memory = np.frombuffer(mmap.mmap(-1, workers * PLACES * room), dtype=np.uint8)
        self.memory = memory.reshape(workers, PLACES, room)
        self.lent = np.frombuffer(mmap.mmap(-1, workers * PLACES), dtype=np.uint8).reshape(workers, PLACES)
        # Never a number twice: a batch must not find another pool in the place of its own.
        self.number = next(_numbers)
        _pools[self.number] = self

    def take(self, shape: tuple[int, int, int]) -> Place | None:
        """A free place for canvases (B, H, W) of the worker that calls; None where there is none."""
        worker = get_worker_info()
        if worker is None or 3 * math.prod(shape) > self.memory.shape[2]:
            return None
        free = np.flatnonzero(self.lent[worker.id] == 0)
        if not len(free):
            return None
        self.lent[worker.id, free[0]] = 1
        return Place(pool=self.number, worker=worker.id, number=int(free[0]), shape=shape)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place in a pool, as it travels from the worker to the trainer."""

    pool: int
    worker: int
    number: int
    shape: tuple[int, int, int]  # B, H, W

    def canvas(self) -> Tensor:
        """The canvases, (B, 3, H, W) uint8, channels last in memory."""
        return _as_canvas(self._memory(), self.shape)

    def received(self) -> Tensor:
        """The canvases in the trainer; the place is free again when the last tensor in their memory is gone."""
        memory = self._memory()
        weakref.finalize(memory, self._free, _pools[self.pool].lent, os.getpid()).atexit = False
        return _as_canvas(memory, self.shape)

    def _memory(self) -> np.ndarray:
        # A view of its own: a tensor made of it keeps it, and nothing else does.
        view: np.ndarray = _pools[self.pool].memory[self.worker, self.number, : 3 * math.prod(self.shape)]
        return view

    def _free(self, lent: np.ndarray, receiver: int) -> None:
        if os.getpid() == receiver:  # a process forked from it drops a copy, and the canvas is still in use
            lent[self.worker, self.number] = 0


def _as_canvas(memory: np.ndarray, shape: tuple[int, int, int]) -> Tensor:
    return torch.from_numpy(memory).view(*shape, 3).permute(0, 3, 1, 2)


def canvas_pool(workers: int, batch: int, side: int) -> CanvasPool | None:
    """A pool for micro-batches of `batch` canvases of at most `side` pixels; None where workers would not share it.

    It takes at most SHARE of the machine's memory: larger canvases than fit then take memory of their own.
    """
    if not workers or multiprocessing.get_start_method() != "fork":
        return None
    wanted, most = batch * 3 * side * side, int(SHARE * device_memory("cpu")) // (workers * PLACES)
    if wanted > most:
        say(
            f"data workers share places of {most / MIB:,.0f} MiB for canvases, where {wanted / MIB:,.0f} could be "
            f"needed: all of them may take {SHARE:.0%} of the memory; larger canvases take memory of their own."
        )
    try:
        return CanvasPool(workers, min(wanted, most))
    except OSError as error:
        say(f"data workers share no memory for canvases: the system gives none ({error.strerror}).")
        return None
