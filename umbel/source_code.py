"""Which code runs: the files of the package, the commit they stand on, and what was changed since."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent
TOLD = "code.json"
"""Beside a copy of the package: commit and diff of what was copied."""


class SourceCode(NamedTuple):
    """The package as it stands."""

    files: list[Path]
    """Relative to the folder that holds the package."""
    commit: str | None
    """None where git knows nothing of it."""
    diff: str
    """Against the commit, of the package's files; new files are named in it and not shown."""

    @property
    def diff_hash(self) -> str | None:
        """Names the diff; None if there is none."""
        return hashlib.sha256(self.diff.encode()).hexdigest()[:12] if self.diff else None

    def digest(self) -> str:
        """Names the content of all files."""
        told = hashlib.sha256()
        for file in self.files:
            content = (PACKAGE.parent / file).read_bytes()
            told.update(f"{file.as_posix()}\0{len(content)}\0".encode() + content)
        return told.hexdigest()[:12]


def source_code() -> SourceCode:
    """What git tracks of the package and what was added, or all files of an installed package or a copy."""
    if (PACKAGE.parent / TOLD).is_file():
        told = json.loads((PACKAGE.parent / TOLD).read_text())
        return SourceCode(_all_files(), told["commit"], told["diff"])
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", PACKAGE.name)
    tracked = _git("ls-files", "--", f"{PACKAGE.name}/{Path(__file__).name}")
    if not listed or not tracked:  # an environment inside some other repository is none of ours
        return SourceCode(_all_files(), None, "")
    names = sorted({name for name in listed.split("\0") if name})
    files = [Path(name) for name in names if (PACKAGE.parent / name).is_file()]
    new = (_git("ls-files", "--others", "--exclude-standard", "--", PACKAGE.name) or "").splitlines()
    diff = _git("diff", "HEAD", "--", PACKAGE.name) or ""
    return SourceCode(
        files, (_git("rev-parse", "HEAD") or "").strip() or None, diff + "".join(f"new: {n}\n" for n in new)
    )


def _all_files() -> list[Path]:
    found = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(PACKAGE.parent) for path in found)


def _git(*words: str) -> str | None:
    """What git says of the folder that holds the package; None if it refuses or is not here."""
    try:
        done = subprocess.run(["git", "-C", str(PACKAGE.parent), *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
