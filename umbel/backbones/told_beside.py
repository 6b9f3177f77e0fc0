"""What a file of weights alone cannot tell, in a small JSON beside it: NAME.pth.json, written by the export."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from umbel.run import UserError, read_json


@dataclass(frozen=True, kw_only=True)
class ToldBeside:
    """What `umbel import` and whatever loads the file take from there."""

    heads: int
    """Attention heads."""
    mean: tuple[float, ...]
    """Of the images that it was trained on: red, green, blue, of images in [0, 1]."""
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.heads, int) or self.heads < 1:
            raise ValueError(f"heads must be a whole number of at least 1, not {self.heads}")
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
                raise ValueError(f"{name} must be three numbers, not {numbers}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, not {self.std}")


def place_beside(file: Path) -> Path:
    """Where it stands."""
    return file.with_name(f"{file.name}.json")


def write_beside(file: Path, *, heads: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write it beside a file of weights."""
    told = ToldBeside(heads=heads, mean=tuple(mean), std=tuple(std))
    place_beside(file).write_text(json.dumps({"format": 1} | asdict(told), indent=1) + "\n")


def read_beside(file: Path) -> ToldBeside | None:
    """What stands beside a file of weights; None where nothing does.

    Raises:
        UserError: it is damaged, or something else.
    """
    place = place_beside(file)
    if not place.is_file():
        return None
    told = read_json(place, f"what an export tells of {file.name}")
    try:
        mean, std = (tuple(float(number) for number in told[name]) for name in ("mean", "std"))
        return ToldBeside(heads=told["heads"], mean=mean, std=std)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{place} does not tell heads and image statistics of {file.name} ({type(error).__name__}: {error}): "
            "export anew, or move it away."
        ) from error
