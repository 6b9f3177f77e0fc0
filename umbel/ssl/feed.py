"""Micro-batches with their masks, from the data workers to the device."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from umbel.data.batch import Batch
from umbel.data.order import Slices
from umbel.ssl.losses import patch_weights
from umbel.ssl.masking import MaskConfig, draw_masks


@dataclass(kw_only=True)
class MaskedBatch:
    """A micro-batch with the masks of its global views."""

    batch: Batch
    masks: Tensor  # (2B, P) bool
    masked: Tensor  # (M,) int64, flat indices of the masked patches
    weights: Tensor  # (M,) float32, their weights in the patch loss

    def pin_memory(self) -> MaskedBatch:
        """Called by the DataLoader where batches go to a GPU."""
        self.batch.pin_memory()
        self.masks, self.masked, self.weights = (t.pin_memory() for t in (self.masks, self.masked, self.weights))
        return self


@dataclass(frozen=True, kw_only=True)
class AddMasks:
    """Draws a micro-batch's masks in the data workers; its place in the global batch follows from its cursors."""

    config: MaskConfig
    seed: int
    slices: Slices
    grid: tuple[int, int]

    def __call__(self, batch: Batch) -> MaskedBatch:
        step, first = divmod(int(batch.cursor[0]), self.slices.global_batch)
        masks = torch.from_numpy(
            draw_masks(
                self.config,
                seed=self.seed,
                step=step,
                global_batch=self.slices.global_batch,
                rows=range(first, first + len(batch.cursor)),
                grid=self.grid,
            )
        )
        masked = masks.flatten().nonzero().squeeze(1)
        return MaskedBatch(batch=batch, masks=masks, masked=masked, weights=patch_weights(masks))


def to_device(batches: Iterable[MaskedBatch], device: torch.device) -> Iterator[MaskedBatch]:
    """The batches with their tensors on the device; `size` stays on the CPU, where boxes are drawn.

    On a GPU the next batch is copied on a stream of its own while this one is computed with; it must be pinned.
    """
    if device.type != "cuda":
        yield from batches
        return
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[MaskedBatch, torch.cuda.Event] | None = None
    for item in itertools.chain(batches, (None,)):
        following = None
        if item is not None:
            with torch.cuda.stream(side):
                copied = _moved(item, device)
                following = copied, side.record_event()
        if waiting is not None:
            ready, copied_by = waiting
            stream = torch.cuda.current_stream(device)
            stream.wait_event(copied_by)
            for tensor in (ready.batch.canvas, ready.masks, ready.masked, ready.weights):
                # Its memory came from the side stream: it must not be handed out again before this stream is done.
                tensor.record_stream(stream)
            yield ready
        waiting = following


def _moved(item: MaskedBatch, device: torch.device) -> MaskedBatch:
    batch = item.batch
    batch.canvas = batch.canvas.to(device, non_blocking=True)
    return MaskedBatch(
        batch=batch,
        masks=item.masks.to(device, non_blocking=True),
        masked=item.masked.to(device, non_blocking=True),
        weights=item.weights.to(device, non_blocking=True),
    )
