"""Who keeps a run of many processes from getting further: counting over the ranks' notes, and the sentences about it.

Time is counted in looks at counters: no clocks of other machines are compared, and a suspended machine accuses nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from umbel.rank_notes import Note

CONTINUE = "the same command continues from the last checkpoint"


class Verdict(NamedTuple):
    """Why a rank must end."""

    sentence: str  # without its full stop
    hung: bool = False
    by: Note | None = None  # the last note of the rank that told it


@dataclass(kw_only=True)
class _Count:
    """Seconds in looks without a sign of life, and without a change of place."""

    beats: int = -1
    changes: int = -1
    silent: float = 0.0
    still: float = 0.0

    def look(self, note: Note | None, seconds: float) -> None:
        beats, changes = (note.beats, note.changes) if note is not None else (-1, -1)
        self.silent = self.silent + seconds if beats == self.beats else 0.0
        self.still = self.still + seconds if changes == self.changes else 0.0
        self.beats, self.changes = beats, changes


class RankVerdict:
    """One rank's view of all.

    Args:
        own: the first note of the rank whose view it is.
        timeout: seconds without progress of any rank after which the run counts as hung.
        seconds: what a look stands for.
    """

    def __init__(self, own: Note, *, world_size: int, timeout: float, seconds: float) -> None:
        self.rank, self.world_size, self.timeout, self.seconds = own.rank, world_size, timeout, seconds
        self.notes = {own.rank: own}
        self.present = list(range(world_size))
        self.gone: list[int] = []
        self.unanswered = 0.0  # seconds that the notes could not be exchanged for
        self._counts = [_Count() for _ in range(world_size)]

    def look(self, own: Note, others: Mapping[int, Note] | None, left: Collection[int], dead: Collection[int]) -> None:
        """Count.

        Args:
            others: notes of the other ranks; None if they could not be exchanged: who cannot write is not read either,
                and must not take silence for death.
            left: ranks that ended well.
            dead: ranks whose process was found dead before the notes were read: those are their last words.
        """
        self._counts[self.rank].look(own, self.seconds)
        self.notes[self.rank] = own
        if others is None:
            self.unanswered += self.seconds
            return
        self.unanswered = 0.0
        self.notes |= others
        self.present = [rank for rank in range(self.world_size) if rank not in left]
        self.gone = [rank for rank in dead if rank not in left]
        for rank in self.present:
            if rank != self.rank:
                self._counts[rank].look(others.get(rank), self.seconds)

    def ended(self) -> Verdict | None:
        """The end of another rank, if one is known."""
        for rank, note in self.notes.items():
            if rank != self.rank and note.ended is not None:
                return Verdict(note.ended, note.hung, note)
        return Verdict(self.lost(self.gone)) if self.gone else None

    def silent(self, seconds: float) -> list[int]:
        """Ranks without a sign of life for so long."""
        return [rank for rank in self.present if rank != self.rank and self._counts[rank].silent >= seconds]

    def hang(self) -> Verdict | None:
        """What keeps the run from getting further, once every rank has reached its limit."""
        still, own = self._counts[self.rank].still, self.notes[self.rank]
        since = f"for {still:.0f} s (--train.timeout)"
        if self.unanswered >= self.timeout and still >= own.limit:
            place = f"{self.names([self.rank])} stands at {own.where}"
            return Verdict(f"no progress {since}: the run folder cannot be written, and {place}; {CONTINUE}", True)
        # A rank is quiet from a look or two earlier or later than its peers stand still.
        silent = self.silent(self.timeout - 2 * self.seconds)
        for rank in self.present:
            limit = self.timeout if rank in silent or rank not in self.notes else self.notes[rank].limit
            if self._counts[rank].still < limit:
                return None
        if silent:
            cause = "stopped, or the machine or its way to the run folder is dead"
            return Verdict(f"no sign of life {since} from {self.names(silent)}: {cause}; {CONTINUE}", True)
        # Others wait for who is behind; of those that have come as far, for who asked for a pause.
        order = {rank: (self.notes[rank].moves, -self.notes[rank].limit) for rank in self.present}
        behind = [rank for rank in self.present if order[rank] == min(order.values())]
        stands = "stands" if len(behind) == 1 else "stand"
        places = " and ".join(sorted({self.notes[rank].where for rank in behind}))
        return Verdict(f"no progress {since}: {self.names(behind)} {stands} at {places}; {CONTINUE}", True)

    def lost(self, ranks: list[int]) -> str:
        """A sentence about ranks that ended without a word; they were about where this one waits for them."""
        are, place = "is" if len(ranks) == 1 else "are", self.notes[self.rank].where
        return f"{self.names(ranks)} {are} gone at {place} (killed, perhaps for want of memory): {CONTINUE}"

    def names(self, ranks: list[int]) -> str:
        """`rank 1 of 2 (host fern)`, `ranks 1, 3 of 8 (hosts fern, moss)`; one alone is `this process`."""
        if self.world_size == 1:
            return "this process"
        hosts = sorted({self.notes[rank].host for rank in ranks if rank in self.notes})
        on = f" (host{'s' if len(hosts) > 1 else ''} {', '.join(hosts)})" if hosts else ""
        return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} of {self.world_size}{on}"
