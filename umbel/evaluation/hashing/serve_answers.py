"""What the local page asks for, answered as plain data: the photographs nearest to a photograph, words, a key."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np

from umbel.backbones import Backbone
from umbel.evaluation.hashing.queries import Queries, of_keys, of_photographs, of_rows, of_texts
from umbel.evaluation.hashing.rerank import Ranking
from umbel.evaluation.hashing.serve_photographs import Photographs
from umbel.evaluation.hashing.serve_upload import RefusedError, decode_upload
from umbel.evaluation.hashing.stored import Hasher
from umbel.run import UserError

MOST_LETTERS = 1000


class Answers:
    """Stored codes with what it takes to search in them."""

    def __init__(
        self,
        ranking: Ranking,
        photographs: Photographs | None,
        embedder: tuple[Hasher, Backbone] | None,
        top: int,
        reader: Hasher | None = None,
    ) -> None:
        """Args:
        photographs: for pictures; None: there are none.
        embedder: for queries that are photographs; None: these are refused.
        reader: for queries in words; None: these are refused.
        top: photographs in an answer.
        """
        self.ranking, self.codes = ranking, ranking.codes
        self.photographs, self.embedder, self.top, self.reader = photographs, embedder, top, reader

    def by_photograph(self, content: bytes) -> dict[str, Any]:
        """Raises:
        RefusedError: no photograph, or there is no backbone.
        """
        if self.embedder is None:
            raise RefusedError(404, "These codes can be searched by key alone.")
        image = decode_upload(content)
        return self.by_queries(of_photographs(*self.embedder, {"your photograph": image}))

    def by_key(self, key: str) -> dict[str, Any]:
        """Raises:
        RefusedError: no such key.
        """
        try:
            return self.by_queries(of_keys(self.codes, [key]))
        except UserError as error:
            raise _refused(404, error) from error

    def by_text(self, text: str) -> dict[str, Any]:
        """Raises:
        RefusedError: these codes know no words, or there is none in the text.
        """
        if self.reader is None:
            raise RefusedError(404, "These codes know no words.")
        if len(text) > MOST_LETTERS:
            raise RefusedError(400, f"Say it in at most {MOST_LETTERS:,} letters.")
        try:
            return self.by_queries(of_texts(self.reader, [text]))
        except UserError as error:
            raise _refused(400, error) from error

    def by_row(self, row: int) -> dict[str, Any]:
        """Raises:
        RefusedError: no such row.
        """
        if row >= len(self.codes):
            raise RefusedError(404, f"There is no photograph with the number {row}.")
        return self.by_queries(of_rows(self.codes, [row]))

    def thumbnail(self, row: int) -> bytes:
        """A JPEG.

        Raises:
            RefusedError: no such row, or no picture of it.
        """
        found = self.photographs.thumbnail(row) if self.photographs and row < len(self.codes) else None
        if found is None:
            raise RefusedError(404, "There is no picture of this photograph.")
        return found

    def by_queries(self, queries: Queries) -> dict[str, Any]:
        """The answer to one query, of whatever kind."""
        started = time.perf_counter()
        (answer,) = self.ranking.answers(queries, self.top)
        took = time.perf_counter() - started
        own = int(queries.own[0])
        found = [
            self._told(row) | {"hamming": bits}
            for row, bits in zip(answer.rows.tolist(), answer.hamming.tolist(), strict=True)
        ]
        species = Counter(row["name"] for row in found if row["name"] is not None).most_common(1)
        clear = bool(species) and 2 * species[0][1] > len(found)
        return {
            "query": self._told(own) if own >= 0 else {"name": None, "key": queries.names[0], "row": None},
            "bits": self.codes.bits,
            "photographs": len(self.codes),
            "milliseconds": round(1000 * took, 1),
            "most": {"name": species[0][0], "count": species[0][1]} if clear else None,
            "found": found,
        }

    def _told(self, row: int) -> dict[str, Any]:
        split = int(np.clip(self.codes.split[row], 0, len(self.codes.splits) - 1))
        return {
            "row": row,
            "key": self.codes.keys[row],
            "name": self.codes.name(row),
            "split": self.codes.splits[split],
        }


def _refused(status: int, error: UserError) -> RefusedError:
    """The sentence of a mistake, as the page shows it."""
    sentence = str(error)
    return RefusedError(status, sentence[:1].upper() + sentence[1:])
