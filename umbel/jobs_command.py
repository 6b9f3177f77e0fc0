"""`umbel jobs [FOLDER ...]`: every run below some folders, with its state, step, time left and loss."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from umbel.job_list import Listed, find_jobs
from umbel.run import UserError, duration, say
from umbel.text_table import aligned

HEADINGS = ("run", "state", "step", "left", "loss", "job", "why")


@dataclass(frozen=True, kw_only=True)
class JobsConfig:
    """List the runs, pipelines and sweeps below folders, and in which state each one is."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Where to look, at any depth; here by default."""
    json: bool = False
    """Print JSON."""


def run(config: JobsConfig) -> None:
    """Print a line for each run.

    Raises:
        UserError: no such folder, or a record in one that cannot be read.
    """
    folders = config.folders or (Path(),)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder.")
    found = find_jobs(folders)
    if config.json:
        told = {"format": 1, "command": "jobs", "jobs": [dataclasses.asdict(one) for one in found]}
        print(json.dumps(told, indent=1, ensure_ascii=False))
    elif not found:
        say(f"no runs below {', '.join(map(str, folders))}.")
    else:
        say("\n".join(aligned([HEADINGS, *map(cells, found)], right=(2, 3, 4))))


def cells(one: Listed) -> tuple[str, ...]:
    """A line of the table."""
    step = "-" if one.step is None else f"{one.step}/{one.steps}" if one.steps else str(one.step)
    left = duration(one.left) if one.left is not None and one.state == "running" else "-"
    loss = "-" if one.loss is None else f"{one.loss:.4f}"
    return (one.name, one.state, step, left, loss, one.job or "-", one.why or "")
