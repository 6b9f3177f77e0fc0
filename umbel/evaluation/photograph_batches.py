"""Photographs of shards in batches, decoded and prepared by worker processes; damaged ones come with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from umbel.data.index import ShardSet
from umbel.data.photograph import BadPhotographError, read_photograph
from umbel.data.reader import ShardReader
from umbel.data.unreadable import UnreadableShardError
from umbel.run import UserError

Prepare = Callable[[Image], Tensor]
"""A photograph -> a tensor, of the same shape for all photographs."""
Item = Tensor | str | UnreadableShardError
"""A sample, prepared, or why it cannot be: a reason in words, or the error of its shard."""


def cut(first: int, last: int, batch: int) -> list[range]:
    """Samples first to last - 1 in batches."""
    return [range(start, min(start + batch, last)) for start in range(first, last, batch)]


def photograph_batches(
    shards: ShardSet, prepare: Prepare, batches: Sequence[range], *, workers: int, pin: bool = False
) -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
    """For every batch the numbers of its good samples, their tensors (B, ...), and the reasons of the bad ones.

    Raises:
        UserError: a shard cannot be read.
    """
    loader = DataLoader(
        _Photographs(shards, prepare),
        batch_sampler=batches,  # type: ignore[arg-type]  # a range is a list of numbers that weighs nothing
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )
    for good, images, reasons, lost in loader:
        if lost is not None:
            raise UserError(lost)
        yield good, images, reasons


class _Photographs(Dataset[tuple[int, Item]]):
    def __init__(self, shards: ShardSet, prepare: Prepare) -> None:
        self.reader, self.prepare = ShardReader(shards), prepare

    def __len__(self) -> int:
        return len(self.reader.shards)

    def __getitem__(self, sample: int) -> tuple[int, Item]:
        try:
            image = read_photograph(self.reader.read(sample, "jpg"))
        except BadPhotographError as error:
            return sample, str(error)
        except UnreadableShardError as error:
            return sample, error
        return sample, self.prepare(image)


def _collate(items: list[tuple[int, Item]]) -> tuple[list[int], Tensor, dict[int, str], str | None]:
    """Numbers and tensors (B, ...) of the good samples, the reasons of the bad ones, and a shard's error in words.

    Raised in a worker, the error would come out as a traceback.
    """
    good = [sample for sample, item in items if isinstance(item, Tensor)]
    images = [item for _, item in items if isinstance(item, Tensor)]
    bad = {sample: item for sample, item in items if isinstance(item, str)}
    lost = next((str(item) for _, item in items if isinstance(item, UnreadableShardError)), None)
    return good, torch.stack(images) if images else torch.empty(0), bad, lost
