"""Remote shards on this machine's disk: a folder bounded in bytes, shared by ranks, workers and commands.

A shard in use is open under a shared lock, and only what nobody holds is evicted, least recently used first. Locks are
the kernel's (flock): a killed process leaves none behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from umbel.data.remote import download
from umbel.run import UserError

GIB = 1024**3
FULL_SECONDS = 60.0
"""How long a shard waits for room that others' shards take."""


def cache_root() -> Path:
    """The user's cache folder for Umbel."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "umbel"


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Where remote shards are kept, and how many bytes of them."""

    folder: Path
    limit: int

    def path(self, url: str, name: str) -> Path:
        """The place of a URL's shard."""
        return self.folder / hashlib.sha256(url.encode()).hexdigest()[:24] / name

    def open(self, url: str, path: Path, *, size: int, sha256: str | None, progress: Callable[[], None]) -> int:
        """A descriptor of a shard, fetched where it is not there; while it is open the shard is not evicted.

        Args:
            size, sha256: what the index tells of it.

        Raises:
            OSError: it cannot be fetched, or is not what the index tells.
            UserError: there is no room for it.
        """
        while True:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                state = os.fstat(descriptor)
                if state.st_nlink and state.st_size == size:
                    os.utime(path)
                    return descriptor
                # Evicted between the two calls, or damaged by a power cut.
                os.close(descriptor)
                if state.st_nlink:
                    path.unlink(missing_ok=True)
            self.fetch(url, path, size=size, sha256=sha256, progress=progress)

    def fetch(
        self,
        url: str,
        path: Path,
        *,
        size: int | None,
        sha256: str | None,
        progress: Callable[[], None],
        wait: bool = True,
    ) -> str | None:
        """Bring a shard here if it is not.

        Args:
            size: in bytes; None: not known before.
            wait: for room; otherwise the shard is left where it is when there is none.

        Returns:
            Its sha256; None where it was here already, or left.

        Raises:
            OSError, UserError: see `open`.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent / ".lock", progress):
            if path.is_file():
                return None
            partial = path.with_name(f".{path.name}.partial")
            if not self._reserve(partial, size or 0, progress, wait=wait):
                return None
            try:
                with partial.open("rb+") as file:
                    found = download(url, file, progress)
                    length = file.tell()
                    file.truncate()
                    os.fsync(file.fileno())
                if size is not None and length != size:
                    raise OSError(f"{length} bytes came, where its index has {size}")
                if sha256 is not None and found != sha256:
                    raise OSError("its sha256 differs from the index")
                if size is None:
                    self._reserve(partial, length, progress, wait=True)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return found

    def _reserve(self, partial: Path, size: int, progress: Callable[[], None], *, wait: bool) -> bool:
        """Make room for a shard and take it: the file beside is as long as the shard will be."""
        deadline = time.monotonic() + FULL_SECONDS
        while True:
            with _locked(self.folder / ".lock", progress):
                if self._make_room(size, partial):
                    with partial.open("ab") as file:
                        file.truncate(size)
                    return True
            if not wait:
                return False
            if time.monotonic() > deadline:
                raise UserError(
                    f"the cache of remote shards {self.folder} is full of shards in use ({self.limit / GIB:g} GiB): "
                    "raise --reader.cache-gib, or lower --reader.window."
                )
            progress()
            time.sleep(0.2)

    def _make_room(self, size: int, partial: Path) -> bool:
        """Evict until `size` bytes more fit; False where what is in use leaves too little."""
        excess, there = size - self.limit, []
        for file in self.folder.glob("*/*"):
            if file.suffix == ".partial":
                excess += 0 if file == partial else _bytes_coming(file)
            elif file.name != ".lock":
                with contextlib.suppress(FileNotFoundError):
                    state = file.stat()
                    excess += state.st_size
                    there.append((state.st_mtime_ns, state.st_size, file))
        for _, length, file in sorted(there):
            if excess <= 0:
                break
            if _evict(file):
                excess -= length
        return excess <= 0


def _evict(file: Path) -> bool:
    """Remove a shard that nobody has open."""
    with contextlib.suppress(OSError), file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink()
        return True
    return False


def _bytes_coming(partial: Path) -> int:
    """The bytes of a shard that is being fetched; what a killed process left is removed and counts nothing."""
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(partial.parent / ".lock", timeout=0):
        partial.unlink(missing_ok=True)
        return 0
    with contextlib.suppress(FileNotFoundError):
        return partial.stat().st_size
    return 0


@contextlib.contextmanager
def _locked(path: Path, progress: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file; `progress` is told while another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    while True:
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=1.0)
            break
        progress()
    try:
        yield
    finally:
        lock.release()
