"""One pass over every photograph of a set of shards: what is damaged, how large they are, what they are known by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from umbel.data.decode import FULL_SIZE, decode
from umbel.data.duplicates import Prints
from umbel.data.index import ShardSet
from umbel.data.perceptual_hash import perceptual_hash
from umbel.data.photograph import BadPhotographError
from umbel.data.photograph_set import observation_of
from umbel.data.reader import ShardReader
from umbel.data.unreadable import UnreadableShardError
from umbel.run import Bar, UserError

CHUNK = 128
DIGEST_BYTES = 16
ROW = np.dtype([("size", "<i4", 2), ("digest", f"V{DIGEST_BYTES}"), ("coarse", "<u8"), ("fine", "<u8", 4)])


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the pass found."""

    rows: np.ndarray  # (N,) of ROW; a damaged photograph has size 0 x 0
    faults: dict[int, str]
    """Sample -> what is wrong with it."""
    observations: np.ndarray  # (N,) of text, "" where the metadata names none

    @property
    def sound(self) -> np.ndarray:
        """(N,) bool, whether a photograph is not damaged."""
        return np.asarray(self.rows["size"][:, 0] > 0)

    def prints(self, samples: np.ndarray) -> Prints:
        """What some samples are recognized by."""
        rows = self.rows[samples]
        return Prints(digest=rows["digest"], coarse=rows["coarse"], fine=rows["fine"])


def survey(shards: ShardSet, *, workers: int, title: str) -> Survey:
    """Decode and hash every photograph, in `workers` processes (0: in this one).

    Raises:
        UserError: a shard cannot be read.
    """
    loader = DataLoader(_Chunks(shards), batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    rows = [np.empty(0, ROW)]
    observations: list[str] = []
    faults: dict[int, str] = {}
    with Bar(title, len(shards)) as bar:
        for first, part, named, wrong, lost in loader:
            if lost is not None:
                raise UserError(lost)
            rows.append(part)
            observations += named
            faults |= {first + row: reason for row, reason in wrong.items()}
            bar.advance(len(part))
    return Survey(rows=np.concatenate(rows), faults=faults, observations=np.array(observations, dtype=np.str_))


_Chunk = tuple[int, np.ndarray, list[str], dict[int, str], str | None]
"""First sample, rows, observations, faults by row; and a shard's error, which torch would raise as a traceback."""


class _Chunks(Dataset[_Chunk]):
    """Item c describes the samples from c * CHUNK on."""

    def __init__(self, shards: ShardSet) -> None:
        self.reader = ShardReader(shards)

    def __len__(self) -> int:
        return -(-len(self.reader.shards) // CHUNK)

    def __getitem__(self, chunk: int) -> _Chunk:
        first = chunk * CHUNK
        try:
            return self._describe(range(first, min(first + CHUNK, len(self.reader.shards))))
        except UnreadableShardError as error:
            return first, np.empty(0, ROW), [], {}, str(error)

    def _describe(self, samples: range) -> _Chunk:
        rows = np.zeros(len(samples), ROW)
        faults: dict[int, str] = {}
        for row, sample in enumerate(samples):
            jpg = self.reader.read(sample, "jpg")
            try:
                photograph = decode(jpg, canvas=FULL_SIZE)
            except BadPhotographError as error:
                faults[row] = str(error)
                continue
            digest = hashlib.sha256(jpg).digest()[:DIGEST_BYTES]
            rows[row] = (tuple(photograph.shape[1:]), digest, *perceptual_hash(photograph))
        observations = [observation(self.reader.read(sample, "json")) for sample in samples]
        return samples.start, rows, observations, faults, None


def _as_it_is(item: Any) -> Any:
    """Torch would turn arrays into tensors, which have no such rows."""
    return item


def observation(metadata: bytes) -> str:
    """The observation that a sample's JSON names, or ""."""
    try:
        values = json.loads(metadata or b"{}")
    except (ValueError, RecursionError):
        return ""
    found = observation_of(values) if isinstance(values, dict) else None
    return "" if found is None else str(found)
