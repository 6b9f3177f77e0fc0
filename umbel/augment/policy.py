"""Augmentation policies by name, and how a policy is applied to views; a list of a user's own: own_policy.py.

`plant-paper` is that of "Self-Supervised Learning of Plant Image Representations" (arXiv 2604.27538), which finds blur,
grayscale and solarize harmful for plants; `dinov2` is the one of DINOv2 (arXiv 2304.07193), which has all three.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from umbel.augment.geometric import Affine
from umbel.augment.jitter import ColorJitter
from umbel.augment.operation import ByView, Operation
from umbel.augment.photometric import GaussianBlur, Grayscale, Posterize, Solarize

Operations = tuple[Operation, ...]

PLANT_PAPER: Operations = (
    ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
    Posterize(p=0.5, bits=(3, 5)),
    Affine(p=0.3, degrees=10.0, translate=0.1, resample="nearest", padding_mode="zeros"),
)
"""As published, for every view."""

PLANT: Operations = PLANT_PAPER
"""The default. What differs from `plant-paper`, where a measurement speaks for it: nothing. Without the affine flowers
gained half a point of 5-shot accuracy in two epochs, synthetic plants nothing that can be told (docs/results.md)."""

DINOV2: Operations = (
    ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
    Grayscale(p=0.2),
    GaussianBlur(p=ByView(first_global=1.0, second_global=0.1, local=0.5), kernel_size=9, sigma=(0.1, 2.0)),
    Solarize(p=ByView(second_global=0.2), thresholds=(128 / 255, 128 / 255)),
)
"""What natural photographs at large are trained with, to compare with."""

POLICIES: dict[str, Operations] = {"plant": PLANT, "plant-paper": PLANT_PAPER, "dinov2": DINOV2, "none": ()}


def policy_draws(operations: Operations) -> int:
    """Uniform numbers that a policy takes for an image."""
    return sum(1 + operation.draws for operation in operations)


def apply_policy(
    images: Tensor,
    operations: Operations,
    uniforms: np.ndarray,
    view: np.ndarray,
    *,
    compiled: bool = False,
    plain: bool = False,
) -> Tensor:
    """Apply each operation to the images that drew it; `images` is overwritten.

    Args:
        images: (n, 3, H, W) in [0, 1].
        uniforms: (n, policy_draws(operations)) in [0, 1).
        view: (n,) number of the view that each image is (0, 1: global, then local).
        compiled: on a GPU, compile what is faster so.
        plain: by Kornia alone, which the faster ways are measured by.

    Returns:
        (n, 3, H, W) in [0, 1].
    """
    for operation, chosen, own in _drawn(operations, uniforms, view):
        if len(chosen):
            parameters = operation.parameters(own, images.shape[2], images.shape[3])
            if plain:
                Operation.change_in_place(operation, images, chosen, parameters)
            else:
                operation.change_in_place(images, chosen, parameters, compiled=compiled)
    return images


def words_of(operations: Operations, uniforms: np.ndarray, view: int, side: int) -> list[str]:
    """What is done to one image, an operation each: the words of those that it drew.

    Args:
        uniforms: (1, policy_draws(operations)) in [0, 1).
        side: of the image in pixels.
    """
    found = []
    for operation, chosen, own in _drawn(operations, uniforms, np.array([view])):
        if len(chosen):
            parameters = operation.parameters(own, side, side)
            found.append(operation.words({name: values[0] for name, values in parameters.items()}))
    return found


def _drawn(
    operations: Operations, uniforms: np.ndarray, view: np.ndarray
) -> Iterator[tuple[Operation, np.ndarray, np.ndarray]]:
    """For each operation the rows that it is applied to, and their (k, draws) uniforms."""
    column = 0
    for operation in operations:
        chosen = np.flatnonzero(uniforms[:, column] < operation.chance(view))
        yield operation, chosen, uniforms[chosen, column + 1 : column + 1 + operation.draws]
        column += 1 + operation.draws
