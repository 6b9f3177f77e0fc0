"""Members of a tar archive as they come by, never unpacked: .tar, .tar.gz, .tar.bz2, .tar.xz."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from umbel.data.names import Names
from umbel.data.photograph import MAX_BYTES
from umbel.run import UserError

OPENERS: dict[str, Callable[[Path], Any]] = {
    ".tar": lambda path: path.open("rb"),
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}
CHUNK = 1 << 20


class DamagedArchiveError(UserError):
    """An archive whose content is not what it was: what was read from it before cannot be trusted either."""


def is_archive(path: Path) -> bool:
    """Whether a path is named as a tar archive."""
    return _opener(path) is not None


def tail(name: str) -> str:
    """A file's name with that of its folder: what stays the same wherever an archive or a folder is rooted."""
    return "/".join(name.rsplit("/", 2)[-2:])


def stream_members(archive: Path, wanted: Iterable[str], skip: int = 0) -> Iterator[tuple[int, bytes | str]]:
    """Read an archive once from front to back.

    Args:
        wanted: paths of files; those whose last two parts are the same are one file.
        skip: so many of the results are left out, without their content being kept.

    Yields:
        The row in `wanted` and the content of each wanted file in the archive's order; then, for each that is not
        there, its row and a sentence that says so.

    Raises:
        UserError: the archive cannot be opened or read, or is cut off.
        DamagedArchiveError: its checksums are wrong, or it is no tar.
    """
    names = Names(map(tail, wanted), what="photograph")
    seen = np.zeros(len(names), dtype=bool)
    count = 0
    opener = _opener(archive)
    if opener is None:
        raise UserError(f"{archive} is not named as an archive ({', '.join(OPENERS)}).")
    try:
        with opener(archive) as file:
            watched = _Watched(file)
            # Not seekable and read in one go: what `|` says.
            with tarfile.open(fileobj=watched, mode="r|", bufsize=CHUNK) as tar:  # type: ignore[call-overload]
                while (member := tar.next()) is not None:
                    # tarfile would keep a description of every member: gigabytes of millions.
                    tar.members.clear()
                    row = names.row(tail(member.name)) if member.isfile() else None
                    if row is None or seen[row]:
                        continue
                    content = _content(tar, member)
                    seen[row] = True
                    count += 1
                    if count > skip:
                        yield row, content
            watched.finish()
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        found = f"after {count} of {len(names)} photographs ({error})"
        if isinstance(error, EOFError) or str(error) == "unexpected end of data":
            raise UserError(
                f"{archive} is cut off {found}: fetch the rest of it, and the same command goes on from there."
            ) from error
        if isinstance(error, OSError) and error.errno is not None:
            # The disk or the network failed, not a checksum (gzip's and bz2's errors carry no number).
            raise UserError(
                f"{archive} cannot be read any further {found}: when it can be, the same command goes on from there."
            ) from error
        raise DamagedArchiveError(f"{archive} is damaged or no archive {found}: fetch it again.") from error
    for missing in np.flatnonzero(~seen).tolist():
        count += 1
        if count > skip:
            yield missing, f"it is not in {archive.name}"


class _Watched:
    """A file that is read in one go, and that must end as a tar does: in zeros."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._end = file, b""

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._end = data[-tarfile.BLOCKSIZE :] if len(data) >= tarfile.BLOCKSIZE else self._end + data
        return data

    def finish(self) -> None:
        """Read to the end, where the checksum stands, and make sure that nothing is cut off there.

        Raises:
            EOFError: it does not end as a tar does.
        """
        while self.read(CHUNK):
            pass
        if any(self._end[-tarfile.BLOCKSIZE :]):
            raise EOFError("it does not end as an archive does")


def _opener(path: Path) -> Callable[[Path], Any] | None:
    return next((opener for suffix, opener in OPENERS.items() if path.name.lower().endswith(suffix)), None)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | str:
    if member.size > MAX_BYTES:
        return f"its file is larger than {MAX_BYTES >> 30} GiB"
    file = tar.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) < member.size:
        raise EOFError("unexpected end of data")
    return content
