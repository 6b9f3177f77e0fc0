"""The folder that a vote command writes: refused before the work where it is taken, replaced when all is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from umbel.run import UserError, atomic_folder, move_aside, refuse_overlap


def refuse_taken(out: Path, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse a folder that holds something, unless `force` may move it aside without moving what is to be read.

    Raises:
        UserError: it is taken, or holds an input.
    """
    if _taken(out):
        if not force:
            raise UserError(f"{out} is there already: choose another --out, or --force to move it aside.")
        for path in inputs:
            refuse_overlap(path, out)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` once all is written; what stood there is moved aside only then."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        yield folder
        if _taken(out):
            move_aside(out)


def _taken(out: Path) -> bool:
    return out.exists() and (not out.is_dir() or any(out.iterdir()))
