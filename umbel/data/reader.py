"""Reading samples through the index: a map-style dataset whose item is a whole batch, under an ordinary DataLoader.

Workers seek, decode and ship uint8 canvases. A bad photograph never moves the order: its slot is filled by the
preceding good sample of the batch (the first good one where none precedes), and the batch tells which it was.
"""

from __future__ import annotations

import os
import signal
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from umbel.data.decode import decode
from umbel.data.index import ShardSet
from umbel.data.order import CursorSampler, epoch_order
from umbel.data.photograph import BadPhotographError

OPEN_FILES = 64


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How samples are read."""

    canvas: int = 512
    """Longer side of a decoded photograph in pixels; larger ones are shrunk, smaller ones never enlarged."""
    window: int = 8
    """Shards whose samples are mixed with one another."""
    workers: int = -1
    """Processes that decode on each rank; -1: chosen by the processors at hand, 0: the training process itself."""
    max_bad: float = 0.01
    """Share of photographs that may be damaged before training stops."""

    def __post_init__(self) -> None:
        for name, low in (("canvas", 16), ("window", 1), ("workers", -1)):
            if getattr(self, name) < low:
                raise ValueError(f"reader.{name} must be at least {low}, not {getattr(self, name)}")
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"reader.max_bad is a share between 0 and 1, not {self.max_bad}")


@dataclass(kw_only=True)
class Batch:
    """Canvases of one micro-batch."""

    canvas: Tensor  # (B, 3, H, W) uint8, each photograph in the upper left corner
    size: Tensor  # (B, 2) int64, true height and width
    cursor: np.ndarray  # (B,) int64, samples consumed by the job before this one
    epoch: np.ndarray  # (B,) int64
    position: np.ndarray  # (B,) int64, place in the epoch's order
    sample: np.ndarray  # (B,) int64, number of the sample in the shard set
    label: np.ndarray  # (B,) int64, -1 without
    bad: list[tuple[int, str]]
    """Samples that could not be decoded, with the reason; their slots hold another sample's photograph."""

    def pin_memory(self) -> Batch:
        """Called by the DataLoader where batches go to a GPU."""
        self.canvas = self.canvas.pin_memory()
        return self


class ShardReader:
    """Reads members by seek; keeps up to OPEN_FILES shards open in each process."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self._open: OrderedDict[int, int] = OrderedDict()
        self._pid = os.getpid()

    def read(self, sample: int, kind: str) -> bytes:
        """The bytes of a sample's member (`jpg`, `json`, `txt`); b"" if it has none."""
        row = self.shards.members[sample]
        length, offset = int(row[f"{kind}_bytes"]), int(row[f"{kind}_offset"])
        return os.pread(self._descriptor(int(row["shard"])), length, offset) if length else b""

    def _descriptor(self, shard: int) -> int:
        if self._pid != os.getpid():
            # A forked worker: the parent's table is its own from here on.
            self._open, self._pid = OrderedDict(), os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            self._open[shard] = os.open(self.shards.shards[shard].path, os.O_RDONLY)
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        return self._open[shard]


class TrainingDataset(Dataset[Batch]):
    """Turns a list of cursors into a Batch."""

    def __init__(self, shards: ShardSet, *, seed: int, canvas: int, window: int) -> None:
        self.reader = ShardReader(shards)
        self.counts = np.array([shard.count for shard in shards.shards])
        self.seed, self.canvas, self.window = seed, canvas, window
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.reader.shards)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's order; two are kept, since a batch may reach over an epoch's end."""
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = epoch_order(self.counts, seed=self.seed, epoch=epoch, window=self.window)
        return self._orders[epoch]

    def __getitem__(self, cursor: int) -> Batch:
        return self.__getitems__([cursor])

    def __getitems__(self, cursors: Sequence[int]) -> Batch:
        cursor = np.asarray(cursors, dtype=np.int64)
        epoch, position = np.divmod(cursor, len(self))
        sample = np.array([self.order(int(e))[p] for e, p in zip(epoch, position, strict=True)])
        images: list[Tensor | None] = []
        bad: list[tuple[int, str]] = []
        for number in sample:
            try:
                images.append(decode(self.reader.read(int(number), "jpg"), canvas=self.canvas))
            except BadPhotographError as error:
                images.append(None)
                bad.append((int(number), str(error)))
        good = fill_slots(images)
        canvas, size = to_canvas(good)
        label = self.reader.shards.members["label"][sample].astype(np.int64)
        return Batch(
            canvas=canvas, size=size, cursor=cursor, epoch=epoch, position=position, sample=sample, label=label, bad=bad
        )


def fill_slots(images: Sequence[Tensor | None]) -> list[Tensor]:
    """Fill empty slots with the preceding good image, leading ones with the first; all empty: with a grey square."""
    first = next((image for image in images if image is not None), torch.full((3, 16, 16), 128, dtype=torch.uint8))
    filled: list[Tensor] = []
    for image in images:
        filled.append(image if image is not None else (filled[-1] if filled else first))
    return filled


def to_canvas(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Images of several sizes in the upper left corners of one tensor.

    Args:
        images: B tensors (3, H_i, W_i) uint8.

    Returns:
        (B, 3, max H_i, max W_i) uint8, zero outside; (B, 2) int64 true sizes.
    """
    size = torch.tensor([image.shape[1:] for image in images])
    height, width = (int(side) for side in size.amax(0))
    canvas = torch.zeros((len(images), 3, height, width), dtype=torch.uint8)
    for row, image in enumerate(images):
        canvas[row, :, : image.shape[1], : image.shape[2]] = image
    return canvas, size


def training_batches(
    dataset: TrainingDataset, sampler: CursorSampler, *, collate: Callable[[Any], Any], workers: int, pin: bool
) -> DataLoader[Any]:
    """A DataLoader over the sampler's micro-batches; `collate` adds in the workers what goes along with a batch."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=leave_signals_to_the_trainer,
    )


def leave_signals_to_the_trainer(_: int) -> None:
    """Ctrl-C and SLURM signal the whole process group: workers go on until the trainer has saved and ends them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
