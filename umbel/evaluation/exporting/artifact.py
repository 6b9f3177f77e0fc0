"""A folder of an export: its files, a model card, what its self-test found, sums; whole or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from umbel.run import UserError, atomic_folder, move_aside

CARD, TEST, SUMS = "README.md", "self_test.json", "SHA256SUMS"


def refuse_occupied(folder: Path, *, force: bool) -> None:
    """Refuse a place that holds something.

    Raises:
        UserError: it is a file, or holds something and may not be moved aside.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: choose another --out.")
    if occupied(folder) and not force:
        raise UserError(f"{folder} holds something: choose another --out, or --force to move it aside.")


def occupied(folder: Path) -> bool:
    """Whether something lies there."""
    return folder.is_dir() and any(folder.iterdir())


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` at the end; what is there is moved aside only then."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as beside:
        yield beside
        if occupied(folder):
            move_aside(folder)


def finish(folder: Path, *, card: str, test: Mapping[str, Any]) -> None:
    """Write the model card and the self-test, and the sums of all files."""
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / TEST).write_text(json.dumps(test, indent=1) + "\n")
    (folder / SUMS).write_text("".join(f"{sha256_of(file)}  {file.name}\n" for file in sorted(folder.iterdir())))


def sha256_of(file: Path) -> str:
    """The hash that `sha256sum -c SHA256SUMS` checks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sums_hold(folder: Path) -> bool:
    """Whether a folder holds the files that its sums tell, unchanged, and nothing else."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: told for told, _, name in (line.partition("  ") for line in lines)}
        there = {file.name for file in folder.iterdir()} - {SUMS}
        return set(sums) == there and all(sha256_of(folder / name) == told for name, told in sums.items())
    except (OSError, ValueError):
        return False
