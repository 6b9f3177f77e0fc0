"""Members of a tar archive as they come by, never unpacked: .tar, .tar.gz, .tar.bz2, .tar.xz."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from umbel.data.names import Names
from umbel.data.photograph import MAX_BYTES
from umbel.run import UserError

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def is_archive(path: Path) -> bool:
    """Whether a path is named as a tar archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def tail(name: str) -> str:
    """A file's name with that of its folder: what stays the same wherever an archive or a folder is rooted."""
    return "/".join(PurePosixPath(name).parts[-2:])


def stream_members(archive: Path, wanted: Iterable[str], skip: int = 0) -> Iterator[tuple[int, bytes | str]]:
    """Read an archive once from front to back.

    Args:
        wanted: paths of files; those whose last two parts are the same are one file.
        skip: so many of the results are left out, without their content being read.

    Yields:
        The row in `wanted` and the content of each wanted file in the archive's order; then, for each that is not
        there, its row and a sentence that says so.

    Raises:
        UserError: the archive is cut off, damaged, or no tar.
    """
    names = Names(map(tail, wanted), what="photograph")
    seen = np.zeros(len(names), dtype=bool)
    count = 0
    try:
        # Not seekable and read in one go: what `|` says.
        with tarfile.open(archive, "r|*", bufsize=1 << 20) as tar:
            while count < len(names) and (member := tar.next()) is not None:
                # tarfile would keep a description of every member: gigabytes of millions.
                tar.members.clear()  # type: ignore[attr-defined]
                row = names.row(tail(member.name)) if member.isfile() else None
                if row is None or seen[row]:
                    continue
                seen[row] = True
                count += 1
                if count > skip:
                    yield row, _content(tar, member)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{archive} is cut off or damaged after {count} of {len(names)} photographs ({error}): fetch it again, "
            "then the same command goes on from there."
        ) from error
    for missing in np.flatnonzero(~seen).tolist():
        count += 1
        if count > skip:
            yield missing, f"it is not in {archive.name}"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | str:
    if member.size > MAX_BYTES:
        return f"its file is larger than {MAX_BYTES >> 30} GiB"
    file = tar.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content
