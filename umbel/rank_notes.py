"""Notes that the ranks of a run leave for one another in its folder: where each one is, and how it ended.

A file for each rank, written over itself in place with a constant length: that needs no room on a full disk, and
readers on other machines always open the same file. Nothing is fsynced: a note is worth nothing after its machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LENGTH = 4096
"""Bytes of a note: one page, so that a reader sees a write whole."""
WHERE_LENGTH, ENDED_LENGTH = 200, 600
"""Characters, of up to 4 bytes each."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a rank tells of itself."""

    rank: int
    host: str
    system: str
    """Of the operating system since its start, as this process sees it: process numbers compare within it alone."""
    process: int
    born: int
    """When the process began, in ticks of that system: its number may be another's later."""
    beats: int = 0
    """Signs of life so far."""
    changes: int = 0
    """Changes of place so far, pauses included."""
    moves: int = 0
    """Places so far, the same on every rank that has come as far."""
    where: str = "starting"
    limit: float = 0.0
    """Seconds that it may stand there."""
    ended: str | None = None
    """Why it ended, in a sentence that is fit to be repeated by others."""
    hung: bool = False
    """Whether that is a hang: others write their stacks too."""

    def is_gone(self) -> bool:
        """Whether its process certainly lives no more; False where that cannot be told (on another machine)."""
        if not self.system or self.system != _system():
            return False
        try:
            state, born = _state(self.process)
        except (FileNotFoundError, ProcessLookupError):
            return True
        except OSError:
            return False
        return state in "ZX" or born != self.born


def first_note(rank: int) -> Note:
    """This process's note before it has gone anywhere."""
    system, process = _system(), os.getpid()
    born = _state(process)[1] if system else 0
    return Note(rank=rank, host=socket.gethostname(), system=system, process=process, born=born)


def _system() -> str:
    """The same for processes that see each other under the same numbers; empty where /proc does not tell."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state(process: int) -> tuple[str, int]:
    """A process's state (Z: dead, and its parent has not looked) and the tick of its beginning."""
    fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[19])


class NoteBoard:
    """The notes of one start of a run, in `<folder>/ranks/<start>`; a world of one keeps none.

    Args:
        start: names this start and no other: what ranks of an earlier one left or still write is never read.
    """

    def __init__(self, folder: Path, start: str, *, rank: int, world_size: int) -> None:
        self.folder, self.rank, self.world_size = folder / "ranks" / start, rank, world_size
        self.notes: dict[int, Note] = {}  # as they were last read
        self.left: set[int] = set()  # ranks that were there and have taken their note away: they ended well
        self._answered = False
        self._working: threading.Thread | None = None

    def open(self, note: Note) -> None:
        """Put up this rank's note; rank 0 clears away what earlier starts left.

        Raises:
            OSError: the run folder cannot be written.
        """
        if self.world_size == 1:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.rank == 0:
            for other in self.folder.parent.iterdir():
                if other != self.folder:
                    shutil.rmtree(other, ignore_errors=True)
        self._file(self.rank).write_bytes(_encoded(note))

    def exchange(self, note: Note, seconds: float) -> bool:
        """Write this rank's note and read the others'; False if that fails or takes longer than `seconds`.

        A thread does it: a disk or network that does not answer holds whoever asks, without end.
        """
        if self.world_size == 1:
            return True
        if self._working is not None:
            self._working.join(seconds)
            if self._working.is_alive():
                return False
        self._answered = False
        self._working = threading.Thread(target=self._exchange, args=(note,), daemon=True)
        self._working.start()
        self._working.join(seconds)
        return self._answered and not self._working.is_alive()

    def close(self) -> None:
        """Take this rank's note away: it ended well. The last one to leave removes the folder."""
        if self.world_size > 1:
            with contextlib.suppress(OSError):
                self._file(self.rank).unlink()
                self.folder.rmdir()
                self.folder.parent.rmdir()

    def _file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.json"

    def _exchange(self, note: Note) -> None:
        try:
            with self._file(self.rank).open("rb+") as file:
                file.write(_encoded(note))
        except OSError:
            return
        # Replaced as a whole: whoever gave up waiting may be reading them.
        notes, left = dict(self.notes), set(self.left)
        for rank in range(self.world_size):
            if rank == self.rank:
                continue
            try:
                notes[rank] = _decoded(self._file(rank).read_bytes())
                left.discard(rank)
            except FileNotFoundError:
                if rank in notes:
                    left.add(rank)
            except (OSError, ValueError, TypeError):
                continue  # in the middle of being written: the next look finds it
        self.notes, self.left = notes, left
        self._answered = True


def _encoded(note: Note) -> bytes:
    told: dict[str, Any] = dataclasses.asdict(note)
    told |= {"where": note.where[:WHERE_LENGTH], "ended": note.ended and note.ended[:ENDED_LENGTH]}
    return json.dumps(told, ensure_ascii=False).encode(errors="replace").ljust(LENGTH)


def _decoded(content: bytes) -> Note:
    return Note(**json.loads(content))
