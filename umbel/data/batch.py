"""A micro-batch of canvases: images of several sizes side by side, and what travels with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info


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
    weight: np.ndarray | None = None  # (B,) float32, where asked for; 0 in a filled slot
    text: list[str] | None = None  # B, where asked for; empty in a filled slot

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


def to_canvas(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Images of several sizes in the upper left corners of one tensor.

    Args:
        images: B tensors (3, H_i, W_i) uint8.

    Returns:
        (B, 3, max H_i, max W_i) uint8, zero outside; (B, 2) int64 true sizes.
    """
    size = torch.tensor([image.shape[1:] for image in images])
    height, width = (int(side) for side in size.amax(0))
    # Channels last in memory, as the decoder gives them: rows are copied whole.
    canvas = _zeros((len(images), height, width, 3)).permute(0, 3, 1, 2)
    for row, image in enumerate(images):
        canvas[row, :, : image.shape[1], : image.shape[2]] = image
    return canvas, size


def _zeros(shape: tuple[int, ...]) -> Tensor:
    """A uint8 tensor of zeros; in a data worker in shared memory, where it would be copied to otherwise."""
    if get_worker_info() is None:
        return torch.zeros(shape, dtype=torch.uint8)
    # As torch's own collation does; memory that the system shares anew is zero.
    storage = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]
