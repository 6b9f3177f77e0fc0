"""Keys of a set that may be very large: the lines of keys.txt, memory-mapped; no string is made before it is asked for.

Ten million keys as Python's strings take more than a gigabyte and seconds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

AT_ONCE, ROWS_AT_ONCE = 1 << 22, 1 << 17
TAIL = 8
"""Last bytes of a line by which it is looked for among many; shorter ones are searched for one by one."""
FEW = 8
"""So many keys are searched for one by one, each in a pass of its own that runs in C."""


class Keys(Sequence[str]):
    """Line n of a file is the key of row n."""

    def __init__(self, path: Path, ends: np.ndarray | None = None) -> None:
        """Map the file.

        Args:
            ends: (N,) int64, the byte behind each line; counted where it is not told.

        Raises:
            OSError: the file cannot be read.
            ValueError: its last line has no end, or `ends` are another file's.
        """
        with path.open("rb") as file:
            empty = not file.seek(0, 2)
            self._content = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._ends = line_ends(path) if ends is None else ends
        if (int(self._ends[-1]) if len(self._ends) else 0) != len(self._content):
            raise ValueError(f"{path.name} has {len(self._content):,} bytes, and its lines have others")

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> tuple[str, ...]: ...

    def __getitem__(self, row: int | slice) -> str | tuple[str, ...]:
        if isinstance(row, slice):
            return tuple(self[number] for number in range(*row.indices(len(self))))
        number = range(len(self))[row]  # an IndexError where it is none
        begin = int(self._ends[number - 1]) if number else 0
        return self._content[begin : int(self._ends[number]) - 1].decode(errors="replace")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(self.find([key]))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Keys):
            return len(self) == len(other) and self._content[:] == other._content[:]
        return isinstance(other, tuple) and len(self) == len(other) and all(a == b for a, b in zip(self, other))  # noqa: B905

    __hash__ = None  # type: ignore[assignment]

    def find(self, keys: Iterable[str]) -> dict[str, int]:
        """The first row of each key; those that are not there are left out."""
        wanted = {f"{key}\n".encode(): key for key in keys if "\n" not in key}
        return self._by_one_pass(wanted) if len(wanted) > FEW else self._each(wanted)

    def _each(self, wanted: dict[bytes, str]) -> dict[str, int]:
        found = {}
        for line, key in wanted.items():
            if self._content[: len(line)] == line:
                found[key] = 0
            elif (before := self._content.find(b"\n" + line)) >= 0:
                found[key] = int(np.searchsorted(self._ends, before + 1)) + 1
        return found

    def _by_one_pass(self, wanted: dict[bytes, str]) -> dict[str, int]:
        # Rows whose last bytes are those of a wanted key are few; only of these a string is made.
        tails = np.frombuffer(b"".join(line[-TAIL:] for line in wanted if len(line) >= TAIL), "<u8")
        found = self._each({line: key for line, key in wanted.items() if len(line) < TAIL})
        content = np.frombuffer(self._content, np.uint8)
        for first in range(0, len(self), ROWS_AT_ONCE):
            ends = self._ends[first : first + ROWS_AT_ONCE]
            places = np.maximum(ends[:, None] + np.arange(-TAIL, 0), 0)
            likely = np.isin(content[places].view(np.dtype("<u8"))[:, 0], tails)
            for row in (first + np.flatnonzero(likely)).tolist():
                if (key := wanted.get(f"{self[row]}\n".encode())) is not None:
                    found.setdefault(key, row)
        return found


def line_ends(path: Path) -> np.ndarray:
    """The byte behind each line of a file: (N,) int64."""
    ends, first = [np.empty(0, np.int64)], 0
    with path.open("rb") as file:
        while content := file.read(AT_ONCE):
            ends.append(np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n")) + (first + 1))
            first += len(content)
    return np.concatenate(ends)
