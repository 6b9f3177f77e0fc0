"""`umbel report`: what a run learned and cost, or how features compare, as one HTML file that needs no network.

A run's report reads the run folder, a comparison results of `umbel probe`; both read the shards for their pictures. A
part whose file is missing says so in a sentence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from umbel.backbones import load
from umbel.config import read_recipe
from umbel.evaluation.report_compare import comparison
from umbel.evaluation.report_page import GENERATOR, page
from umbel.evaluation.report_parts import heading, lead, parts
from umbel.evaluation.report_results import read_sources
from umbel.evaluation.report_run import Photographs, RunRecord, find_pictures, read_run
from umbel.evaluation.report_suite import read_suites, suite_page
from umbel.run import UserError, say, write_atomic


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the report of a run, or a comparison of probed features: one HTML file."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """A run folder of `umbel pretrain`; or, to compare, folders with probe.json or such files, named as NAME=PATH."""
    out: Path | None = None
    """The file; RUN/report.html or comparison.html by default. An older report is replaced."""
    data: str | None = None
    """Shards for the pictures; by default those that the run was trained on, or that were embedded."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("paths must name a run, or results to compare")


def run(config: ReportConfig) -> None:
    """Write the report and say where it is.

    Raises:
        UserError: see `write_report` and `write_comparison`.
    """
    only = Path(config.paths[0])
    if len(config.paths) > 1 or _is_result(config.paths[0]):
        out = write_comparison(config.paths, data=config.data, out=config.out)
    elif (other := _other_command(only)) is not None:
        say(f"{only} is a run of `umbel {other}`, of which there is no report yet: its figures stand in result.json.")
        return
    else:
        out = write_report(only, data=config.data, out=config.out)
    say(f"{out}: {out.stat().st_size / 2**20:.1f} MB, opens in any browser.")


def _is_result(given: str) -> bool:
    """Whether a single path is one of probed features and not a run."""
    path = Path(given)
    if path.is_dir():
        return not (path / "config.yaml").is_file() and (path / "probe.json").is_file()
    return path.is_file() or ("=" in given and not path.exists())


def _other_command(run: Path) -> str | None:
    """The command that trained a run, where it is none that a report shows; None otherwise."""
    for command in ("finetune", "distill"):
        with contextlib.suppress(UserError, OSError):
            if (run / "config.yaml").is_file() and read_recipe(str(run / "config.yaml"), command):
                return command
    return None


def write_report(run: Path, *, data: str | None = None, out: Path | None = None) -> Path:
    """Write the report of a run folder.

    Args:
        data: shards for the pictures; by default those that the run was trained on.
        out: the file; RUN/report.html by default.

    Raises:
        UserError: no run, one without metrics, a damaged file in it, or a file at `out` that is no report.
    """
    out = run / "report.html" if out is None else out
    _refuse_stranger(out)
    record = read_run(run)
    return _write(out, assemble(record, find_pictures(record, data)))


def write_comparison(given: Sequence[str], *, data: str | None = None, out: Path | None = None) -> Path:
    """Write the comparison of probed features; or the table of a suite, where they are results of one.

    Args:
        given: PATH or NAME=PATH: folders with probe.json, and embeddings beside it where there are; or such files.
        data: shards for the pictures; by default those that were embedded.
        out: the file; comparison.html by default.

    Raises:
        UserError: no results, results that were not measured alike, or a file at `out` that is no report.
    """
    out = Path("comparison.html") if out is None else out
    _refuse_stranger(out)
    suites = read_suites(given)
    return _write(out, comparison(read_sources(given), data) if suites is None else suite_page(suites))


def assemble(run: RunRecord, pictures: Photographs | None) -> str:
    """The whole page of a run."""
    try:
        backbone, fault = load(run.path, any_size=True), ""
    except UserError as error:
        backbone, fault = None, str(error)
    return page(heading(run, pictures), lead(run, pictures, backbone), parts(run, pictures, backbone, fault))


def _refuse_stranger(out: Path) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out must end in .html, not {out}.")
    if out.is_dir() or (out.exists() and GENERATOR.encode() not in out.read_bytes()[:2000]):
        raise UserError(f"{out} is no report of Umbel's: choose another --out.")


def _write(out: Path, text: str) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text)
    return out
