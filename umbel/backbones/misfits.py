"""Holding a checkpoint's tensors against what a network needs: every misfit is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from umbel.run import UserError

NAMED = 3


def refuse_misfits(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Take a checkpoint only if it has every tensor of the network, in its shape, and nothing else.

    Args:
        what: the network, in words: "a ViT of DINOv3".

    Raises:
        UserError: it is none; tensors that are missing, left over or of another shape are named.
    """
    missing = [name for name in expected if name not in found]
    left = [name for name in found if name not in expected]
    other = [
        f"{name} {tuple(found[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    faults = [
        f"{fault} {shortlist(names)}"
        for fault, names in (("it lacks", missing), ("it has besides", left), ("another shape has", other))
        if names
    ]
    if faults:
        raise UserError(f"{path} is no {what}: {'; '.join(faults)}.")


def floats(path: Path, tensors: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors, all of floating-point numbers.

    Raises:
        UserError: one is something else.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            what = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UserError(f"{path}: {name} is no tensor of floating-point numbers, but {what}.")
        found[name] = tensor
    return found


def commonest(tensors: Iterable[Tensor]) -> int:
    """The last dimension that most tensors agree on, so that one that differs is the one that is named; 0 of none."""
    lengths = Counter(tensor.shape[-1] for tensor in tensors if tensor.ndim)
    return max(lengths, key=lambda length: lengths[length], default=0)


def shortlist(names: Iterable[str]) -> str:
    """The first few names and the number of the others."""
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
