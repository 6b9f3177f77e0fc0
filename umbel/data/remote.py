"""Remote files through webdataset's openers: which URLs are read, and how one comes to this machine.

An opener starts a program (curl, gsutil, aws ...) with the URL as its argument, never through a shell. `pipe:` URLs
are shell commands by definition: they are refused unless allowed by name.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
from collections.abc import Callable
from typing import IO, Any

from webdataset.gopen import Pipe, gopen_schemes

from umbel.run import UserError

CHUNK = 1 << 20
STALL_SECONDS = 30.0
"""A transfer that gives no byte for so long is given up, and tried again by the caller."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?://)?")
_CURL_REFUSED = 22
_CURL = {
    6: "its host is unknown",
    7: "its host cannot be reached",
    18: "it was cut off in the middle",
    _CURL_REFUSED: "its server answers with an error, such as 404",
    52: "its server answers nothing",
    56: "the connection broke",
}


class AbsentError(OSError):
    """A URL that gives nothing: an error of its server such as 404, or the end of a program that tells no more."""


def is_url(data: str) -> bool:
    """Whether DATA names something remote (`scheme://` or `pipe:`) rather than a path."""
    return data.startswith("pipe:") or "://" in data


def without_query(url: str) -> str:
    """A URL up to its query, which may be a signature; a `pipe:` command as it is."""
    return url if url.startswith("pipe:") else url.partition("?")[0]


def check_url(url: str, *, allow_pipe: bool) -> None:
    """Refuse what cannot or must not be opened.

    Raises:
        UserError: a `pipe:` that is not allowed, or a scheme that nothing here opens.
    """
    scheme = _scheme(url)
    if scheme == "pipe":
        if not allow_pipe:
            raise UserError(
                f"{url}: a pipe: runs a shell command; `umbel pretrain` takes it with --reader.allow-pipe, "
                "nothing else does."
            )
    elif scheme not in _openers():
        known = ", ".join(sorted(f"{name}://" for name in _openers() if not name.startswith(("_", "pipe"))))
        raise UserError(f"{url}: {scheme}: is not a way to read shards; there are: a path, {known}.")


def download(url: str, file: IO[bytes], progress: Callable[[], None]) -> str:
    """Write what a URL gives into a file.

    Args:
        progress: called after each piece.

    Returns:
        The sha256 of the content.

    Raises:
        OSError: it cannot be fetched; the message says why.
        UserError: the program that fetches is not installed.
    """
    digest = hashlib.sha256()
    try:
        # The table's opener and not `gopen`, which lets an environment variable rewrite URLs, to a pipe: too.
        pipe = _openers()[_scheme(url)](url, "rb", CHUNK)
    except FileNotFoundError as error:
        raise UserError(f"{url}: fetching it needs the program {error.filename}: install it.") from error
    ended = False
    try:
        descriptor = pipe.stream.fileno()
        while select.select([descriptor], [], [], STALL_SECONDS)[0]:
            piece = os.read(descriptor, CHUNK)
            if not piece:
                ended = True
                break
            file.write(piece)
            digest.update(piece)
            progress()
    finally:
        if not ended:
            pipe.proc.kill()
        pipe.stream.close()
        code = pipe.proc.wait()
    if not ended:
        raise OSError(f"nothing came for {STALL_SECONDS:g} s")
    if code and pipe.proc.args[0] != "curl":
        raise AbsentError(f"the program that fetches it ended with code {code}")
    if code:
        raise (AbsentError if code == _CURL_REFUSED else OSError)(_CURL.get(code, f"curl ended with code {code}"))
    return digest.hexdigest()


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""


def _openers() -> dict[str, Callable[..., Any]]:
    """webdataset's table, which has no s3 of its own unless AIStore serves it (USE_AIS_FOR)."""
    return {"s3": _open_s3, **gopen_schemes}


def _open_s3(url: str, mode: str, bufsize: int) -> Any:
    return Pipe(["aws", "s3", "cp", "--only-show-errors", url, "-"], mode=mode, bufsize=bufsize)
