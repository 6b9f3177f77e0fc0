"""A micro-batch of canvases: images of several sizes side by side, and what travels with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from umbel.data.canvas_pool import Place


@dataclass(kw_only=True)
class Batch:
    """Canvases of one micro-batch."""

    canvas: Tensor  # (B, 3, H, W) uint8, each photograph in the upper left corner
    size: Tensor  # (B, 2) int64, true height and width
    cursor: np.ndarray  # (B,) int64, samples consumed by the job before this one
    epoch: np.ndarray  # (B,) int64
    position: np.ndarray  # (B,) int64, place in the epoch's order
    sample: np.ndarray  # (B,) int64, number of the sample in the shard set
    label: np.ndarray  # (B,) int64, -1 without; of a filled slot too, since its photograph is another's
    bad: list[tuple[int, str]]
    """Samples that could not be read, with the reason; their slots hold another sample's photograph."""
    place: Place | None = None
    """Where a worker's canvas lies in the memory that it shares with the trainer."""
    weight: np.ndarray | None = None  # (B,) float32, where asked for; 0 in a filled slot
    text: list[str] | None = None  # B, where asked for; empty in a filled slot

    def __getstate__(self) -> dict[str, Any]:
        """A canvas in shared memory stays where it is."""
        return self.__dict__ | ({} if self.place is None else {"canvas": None})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.place is not None:
            self.canvas, self.place = self.place.received(), None

    def pin_memory(self) -> Batch:
        """Called by the DataLoader where batches go to a GPU."""
        self.canvas = self.canvas.pin_memory()
        return self


def fill_slots(images: Sequence[Tensor | None]) -> list[Tensor]:
    """Fill empty slots with the preceding good image, leading ones with the first; all empty: with a grey square."""
    first = next((image for image in images if image is not None), torch.full((3, 16, 16), 128, dtype=torch.uint8))
    filled: list[Tensor] = []
    for image in images:
        filled.append(image if image is not None else (filled[-1] if filled else first))
    return filled


def canvas_shape(images: Sequence[Tensor]) -> tuple[int, int, int]:
    """B, H and W of the canvas that images (3, H_i, W_i) need."""
    return len(images), max(image.shape[1] for image in images), max(image.shape[2] for image in images)


def to_canvas(images: Sequence[Tensor], place: Place | None = None) -> tuple[Tensor, Tensor]:
    """Images of several sizes in the upper left corners of one tensor.

    Args:
        images: B tensors (3, H_i, W_i) uint8.
        place: shared memory to put them into, of their `canvas_shape`.

    Returns:
        (B, 3, max H_i, max W_i) uint8, zero outside; (B, 2) int64 true sizes.
    """
    # Channels last in memory, as the decoder gives them: rows are copied whole.
    canvas = _zeros((*canvas_shape(images), 3)).permute(0, 3, 1, 2) if place is None else place.canvas()
    for row, image in enumerate(images):
        height, width = image.shape[1:]
        canvas[row, :, :height, :width] = image
        if place is not None:  # an older canvas is still there
            canvas[row, :, :height, width:] = 0
            canvas[row, :, height:] = 0
    return canvas, torch.tensor([image.shape[1:] for image in images])


def _zeros(shape: tuple[int, ...]) -> Tensor:
    """A uint8 tensor of zeros; in a data worker in shared memory, where it would be copied to otherwise."""
    if get_worker_info() is None:
        return torch.zeros(shape, dtype=torch.uint8)
    # As torch's own collation does; memory that the system shares anew is zero.
    storage = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]
