"""Which row bears a name, among millions: sorted 64-bit hashes, 16 bytes a name where a dictionary takes 200."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from umbel.run import UserError


class Names:
    """The rows of names, found by hash; a name that is not there is found with a chance of rows / 2**64."""

    def __init__(self, names: Iterable[str], *, what: str) -> None:
        """Enter the names of rows 0, 1, ...

        Raises:
            UserError: a name stands twice; `what` says of what it is the name.
        """
        hashes = np.fromiter(map(hash_of, names), dtype=np.uint64)
        self._rows = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._rows]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(twice):
            first, second = self._rows[twice[0]], self._rows[twice[0] + 1]
            name = f" '{names[second]}'" if isinstance(names, Sequence) else ""
            raise UserError(
                f"{what} {second + 1}{name} has the name of {what} {first + 1}: each may stand there once only."
            )

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, name: str) -> int | None:
        """The row of a name, or None."""
        wanted = np.uint64(hash_of(name))
        place = int(np.searchsorted(self._sorted, wanted))
        return int(self._rows[place]) if place < len(self) and self._sorted[place] == wanted else None


def hash_of(name: str) -> int:
    """64 bits of a name's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")
