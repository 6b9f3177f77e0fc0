"""Small pictures of the photographs that codes are of, from their shards, by row alone."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np

from umbel.data.index import open_shards
from umbel.data.photograph import BadPhotographError, SizeBound, encode_photograph, read_photograph
from umbel.data.reader import ShardReader
from umbel.data.shard_set import ShardSet
from umbel.data.unreadable import UnreadableShardError
from umbel.evaluation.hashing.codes import Codes
from umbel.evaluation.report_album import same_photographs
from umbel.run import UserError, say

SIDE = 320
KEPT = 512
"""Pictures in memory, some 20 kB each."""


class Photographs:
    """The shards of stored codes."""

    def __init__(self, codes: Codes, shards: ShardSet) -> None:
        self.codes, self.shards = codes, shards
        self._reader, self._lock = ShardReader(shards), threading.Lock()
        # Kept for each set by itself, not for the class.
        self.thumbnail = lru_cache(maxsize=KEPT)(self._thumbnail)

    def sample(self, row: int) -> int | None:
        """The sample of a row of the codes; None where the shards do not hold it.

        Photographs keep the order of their shards and only damaged ones are left out: so a row's sample stands at that
        row, or behind it by at most as many as were left out.
        """
        key = self.codes.keys[row].encode()
        window = self.shards.keys[row : row + 1 + len(self.shards) - len(self.codes)]
        found = np.flatnonzero(window == key)
        return row + int(found[0]) if len(found) else None

    def _thumbnail(self, row: int) -> bytes | None:
        sample = self.sample(row)
        if sample is None:
            return None
        try:
            with self._lock:  # the reader's table of open shards is one thread's at a time
                content = self._reader.read(sample, "jpg")
            return encode_photograph(read_photograph(content), bound=SizeBound(longer=SIDE), quality=85)
        except (BadPhotographError, UnreadableShardError):
            return None


def open_photographs(codes: Codes, data: str | None) -> Photographs | None:
    """The shards that the codes' provenance names, or `data`; None, told why, where pictures cannot be had."""
    told = codes.provenance.get("data")
    place = data or (told.get("folder") if isinstance(told, dict) else None)
    if place is None:
        say("no pictures: the codes do not tell their shards; give them with --data.")
        return None
    try:
        shards = open_shards(place)
    except UserError as error:
        if data is not None:
            raise
        say(f"no pictures: {error}")
        return None
    if not same_photographs(codes.provenance, codes.splits, shards):
        if data is not None:
            raise UserError(f"{data} holds other photographs than the codes.")
        say(f"no pictures: {place} holds other photographs by now; give theirs with --data.")
        return None
    return Photographs(codes, shards.select(codes.splits))
