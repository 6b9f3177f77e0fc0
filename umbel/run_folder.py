"""A run's folder: resolved configuration, provenance, metrics as JSON lines, one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from umbel import __version__, config
from umbel.run import UserError, move_aside, rank, read_json, write_atomic
from umbel.source_code import source_code
from umbel.surroundings import surroundings

# What a start leaves behind that ended before it began anything, or a job that has not started yet; shards serve every
# configuration.
_NO_RUN = (".lock", "ranks", "launch", "shards", "probe-shards")
# Seconds: `umbel jobs` holds a lock for a moment to see whether anybody does.
_PATIENCE = 0.3
LIBRARIES = ("torch", "torchvision", "timm", "kornia", "webdataset", "accelerate", "numpy")


class RunFolder:
    """config.yaml, run.json, metrics.jsonl and checkpoints of a run; made or continued by `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @classmethod
    def open(
        cls,
        path: Path,
        resolved: Any,
        command: str,
        *,
        ignore: Sequence[str],
        force: bool,
        also: Callable[[RunFolder], str | None] = lambda _: None,
    ) -> RunFolder:
        """Make the folder, or continue it if its configuration is the same.

        Args:
            ignore: dotted names of settings that may differ (paths, launching).
            also: finds a difference that the configurations do not show, in a sentence whose subject is the folder.
            force: move a folder that holds something else aside.

        Raises:
            UserError: the folder holds something else, another configuration, or a running process.
        """
        run = cls(path)
        if rank() != 0:
            return run
        difference = run._difference(resolved, command, ignore) or also(run)
        if difference and force:
            if path.is_dir() and (path / ".lock").exists():
                run._lock()  # a running process would go on writing, by path, into the new run
            move_aside(path)
        elif difference:
            raise UserError(f"{path} {difference}: choose another --out, or --force to move it aside.")
        path.mkdir(parents=True, exist_ok=True)
        run._lock()
        if not (path / "config.yaml").exists():
            write_atomic(path / "config.yaml", config.write_recipe(resolved, command))
        return run

    def _difference(self, resolved: Any, command: str, ignore: Sequence[str]) -> str | None:
        """Why the folder cannot be continued with a configuration, or None."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        if not (self.path / "config.yaml").is_file():
            # A process that died between mkdir and the configuration leaves the lock alone behind.
            strangers = self.path.is_file() or any(p.name not in _NO_RUN for p in self.path.iterdir())
            return "holds other files than a run's" if strangers else None
        try:
            file = str(self.path / "config.yaml")
            there = config.completed(config.read_recipe(file, command), resolved, file)
        except UserError as error:
            return f"is a run that this command cannot continue ({str(error).rstrip('.')})"
        found = config.first_difference(there, config.to_values(resolved), ignore)
        return f"is a run with another configuration ({found})" if found else None

    def previous(self, command: str) -> dict[str, Any] | None:
        """The values of the configuration that the folder was begun with; None where it holds no run of this command.

        Why another command's run cannot be continued is for `open` to say.
        """
        file = self.path / "config.yaml"
        with contextlib.suppress(UserError):
            return config.read_recipe(str(file), command) if file.is_file() else None
        return None

    def give_up(self) -> None:
        """Take the configuration back where nothing was begun with it: a mended command must not be refused for it."""
        if rank() == 0 and {path.name for path in self.path.iterdir()} <= {"config.yaml", *_NO_RUN}:
            (self.path / "config.yaml").unlink(missing_ok=True)

    def _lock(self) -> None:
        """Keep other processes out for as long as this one lives."""
        self._lock_file = (self.path / ".lock").open("w")
        # A forked data worker would hold the lock for some seconds longer than a trainer that was killed.
        held = weakref.ref(self._lock_file)
        os.register_at_fork(after_in_child=lambda: _close(held()))
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if time.monotonic() > until:
                    raise UserError(
                        f"{self.path} is in use by another process: wait for it, or choose another --out."
                    ) from error
                time.sleep(0.02)

    def record(self) -> dict[str, Any]:
        """What is noted of the run's starts in run.json; nothing yet if there was none.

        Raises:
            UserError: it cannot be read.
        """
        file = self.path / "run.json"
        return read_json(file, "the run's record") if file.exists() else {"format": 1, "lasting": {}, "starts": []}

    def note_start(self, step: int, *, now: Mapping[str, Any] | None = None, **facts: Any) -> None:
        """Add this start to run.json: when, where, from which step, with which command, code and libraries.

        Facts that a run keeps for life (`data`) must be the same at every start.

        Args:
            now: facts of this start alone.

        Raises:
            UserError: a lasting fact differs.
        """
        if rank() != 0:
            return
        self.check_lasting(**facts)
        file, told = self.path / "run.json", self.record()
        told["lasting"] |= facts
        libraries = {name: version(name) for name in LIBRARIES}
        code = source_code()
        if code.diff:
            write_atomic(self.path / f"code-{code.diff_hash}.diff", code.diff)
        told["starts"].append(
            {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "from_step": step, "command": sys.argv, "umbel": __version__}
            | {"python": platform.python_version(), "system": platform.platform(), "libraries": libraries}
            | surroundings(code)
            | dict(now or {})
        )
        write_atomic(file, json.dumps(told, indent=1) + "\n")

    def check_lasting(self, **facts: Any) -> None:
        """Refuse facts that differ from those that the run keeps for life, before anything is made of them.

        Raises:
            UserError: one does.
        """
        if rank() != 0:
            return
        kept = self.record()["lasting"]
        if any(kept.get(name, value) != value for name, value in facts.items()):
            raise UserError(f"{self.path} was begun on other data: give that, or choose another --out.")

    def log(self, name: str, row: dict[str, Any]) -> None:
        """Append a line to `<name>.jsonl`; one write, so that lines of several processes stay whole.

        Raises:
            UserError: it cannot be written (a full disk).
        """
        path = self.path / f"{name}.jsonl"
        try:
            with path.open("ab+") as file:
                file.seek(max(file.seek(0, 2) - 1, 0))
                torn = file.read(1) not in (b"\n", b"")  # a line that a kill cut off must not swallow this one
                file.write((("\n" if torn else "") + json.dumps(row) + "\n").encode())
        except OSError as error:
            raise UserError(
                f"{path} could not be written ({error.strerror}): make room, and the same command continues from the "
                "last checkpoint."
            ) from error

    def read_log(self, name: str) -> list[dict[str, Any]]:
        """The lines of `<name>.jsonl`; lines that were cut off are passed over."""
        file = self.path / f"{name}.jsonl"
        rows = []
        for line in file.read_text().splitlines() if file.exists() else []:
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        return rows

    def cut_back(self, name: str, step: int) -> None:
        """Drop lines of steps that no checkpoint holds, so that no step stands twice after a restart."""
        file = self.path / f"{name}.jsonl"
        if rank() == 0 and file.exists():
            kept = [row for row in self.read_log(name) if row["step"] <= step]
            write_atomic(file, "".join(json.dumps(row) + "\n" for row in kept))


def _close(file: IO[str] | None) -> None:
    if file is not None:
        file.close()
