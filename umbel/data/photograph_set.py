"""A set of photographs before it is made into shards: what every source, a folder or a competition, is read into."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from umbel.run import UserError

OBSERVATION_FIELDS = ("observation", "observation_id", "obs_id")


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A photograph with its place in the set."""

    path: str
    """Its file, or its path inside an archive."""
    key: str
    label: int | None = None
    class_name: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    """What else is known of it; goes into the sample's JSON."""
    content: bytes | str | None = None
    """Out of an archive: its bytes, or a sentence why there are none. None: they are read from `path`."""

    def __str__(self) -> str:
        return printable(self.path)


class LazyRows(Sequence[Photograph]):
    """Photographs that are made when they are asked for: of a million, only those in use are there."""

    def __init__(self, count: int, make: Callable[[int], Photograph]) -> None:
        self._rows, self._make = range(count), make

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> Photograph: ...
    @overload
    def __getitem__(self, row: slice) -> list[Photograph]: ...
    def __getitem__(self, row: int | slice) -> Photograph | list[Photograph]:
        if isinstance(row, slice):
            return [self._make(one) for one in self._rows[row]]
        return self._make(self._rows[row])


@dataclass(frozen=True, kw_only=True)
class PhotographSet:
    """What a source holds."""

    splits: Mapping[str, Sequence[Photograph]]
    """The photographs of each split; a sequence may make them only when they are asked for."""
    classes: tuple[str, ...]
    """Line n of classes.txt, counted from 0, names label n."""
    fingerprint: str
    """A hash of the source's files: their content, or names, sizes and times."""
    archives: Mapping[str, Path] = field(default_factory=dict)
    """The tars that splits are streamed from; splits that are not here are files."""

    def __post_init__(self) -> None:
        """Refuse names of classes that would break classes.txt, a line each.

        Raises:
            UserError: a name has a line break.
        """
        for name in self.classes:
            if name and name.splitlines() != [name]:
                raise UserError(f"the class {name!r} has a line break in its name: rename it.")

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    def places(self) -> set[str]:
        """Where the photographs are read from: archives, folders, and files that are links to elsewhere."""
        found = {str(archive) for archive in self.archives.values()}
        for split, rows in self.splits.items():
            if split not in self.archives:
                found |= {os.path.dirname(row.path) for row in rows}
                found |= {row.path for row in rows if os.path.islink(row.path)}
        return found


def observation_of(metadata: Mapping[str, object]) -> object:
    """The observation (one plant, one day, one or more photographs) that metadata names, by any of the usual names."""
    return next((metadata[name] for name in OBSERVATION_FIELDS if metadata.get(name) is not None), None)


def key_of(file: Path) -> str:
    """A sample's key: the file's name made safe (no dots or spaces), and a hash of its path that makes it unique."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in file.stem)[:60]
    return f"{stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:10]}"


def printable(name: str) -> str:
    """A file's name as text, also where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def state_of(root: Path, files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Names, sizes and times of files below a folder; of those that are not there, the name."""
    state = []
    for file in files:
        try:
            told = file.stat()
            state.append((os.path.relpath(file, root), told.st_size, told.st_mtime_ns))
        except OSError:
            state.append((os.path.relpath(file, root), -1, 0))
    return state


def fingerprint_of(*parts: object) -> str:
    """A short hash of plain values, for sources to be recognised by."""
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()[:24]
