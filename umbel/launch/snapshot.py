"""A copy of the package that a job runs from: edits of the checkout reach neither it nor its restarts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from umbel.run import atomic_folder
from umbel.source_code import PACKAGE, TOLD, SourceCode, source_code


class Code(NamedTuple):
    """The code that a job runs."""

    folder: Path
    """Holds the package; it goes into PYTHONPATH."""
    commit: str | None
    diff: str | None
    """The diff's hash."""
    snapshot: str | None
    """The content's hash; None without a copy."""


def place(folder: Path, *, copy: bool) -> Path:
    """The folder that `take` would name."""
    return folder.resolve() / f"code-{source_code().digest()}" if copy else PACKAGE.parent


def take(folder: Path, *, copy: bool) -> Code:
    """Copy the package to `folder/code-<hash>/`, where it is not there yet; only its place if not `copy`."""
    code = source_code()
    if not copy:
        return Code(PACKAGE.parent, code.commit, code.diff_hash, None)
    digest = code.digest()
    path = folder.resolve() / f"code-{digest}"
    try:
        if not path.exists():
            _write(path, code)
    except OSError:
        if not path.exists():  # another submission may have been faster
            raise
    return Code(path, code.commit, code.diff_hash, digest)


def _write(path: Path, code: SourceCode) -> None:
    with atomic_folder(path) as beside:
        for file in code.files:
            (beside / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PACKAGE.parent / file, beside / file)
        told = {"format": 1, "commit": code.commit, "diff": code.diff}
        (beside / TOLD).write_text(json.dumps(told, indent=1) + "\n")
