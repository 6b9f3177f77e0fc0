"""`umbel report RUN`: what a run learned and cost, as one HTML file that needs no network and no scripts.

The report reads the run folder, and the shards for its pictures; a part whose file is missing says so in a sentence.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from umbel import __version__
from umbel.backbones import load
from umbel.evaluation.report_html import Markup, tag
from umbel.evaluation.report_parts import heading, lead, parts
from umbel.evaluation.report_run import Photographs, RunRecord, find_pictures, read_run
from umbel.evaluation.report_style import STYLE, umbel_drawing
from umbel.run import UserError, say, write_atomic

GENERATOR = "Umbel report"
# Nothing may be fetched and no script may run, whatever a name in the data tries.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the report of a run: one HTML file."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of `umbel pretrain`, with what probes, codes and steps have left in it."""
    out: Path | None = None
    """The file; RUN/report.html by default. An older report is replaced."""
    data: str | None = None
    """Shards for the pictures; by default those that the run was trained on."""


def run(config: ReportConfig) -> None:
    """Write the report and say where it is.

    Raises:
        UserError: see `write_report`.
    """
    out = write_report(config.run, data=config.data, out=config.out)
    say(f"{out}: {out.stat().st_size / 2**20:.1f} MB, opens in any browser.")


def write_report(run: Path, *, data: str | None = None, out: Path | None = None) -> Path:
    """Write the report of a run folder.

    Args:
        data: shards for the pictures; by default those that the run was trained on.
        out: the file; RUN/report.html by default.

    Raises:
        UserError: no run, one without metrics, a damaged file in it, or a file at `out` that is no report.
    """
    out = run / "report.html" if out is None else out
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out must end in .html, not {out}.")
    if out.is_dir() or (out.exists() and GENERATOR.encode() not in out.read_bytes()[:2000]):
        raise UserError(f"{out} is no report of Umbel's: choose another --out.")
    record = read_run(run)
    page = assemble(record, find_pictures(record, data))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page)
    return out


def assemble(run: RunRecord, pictures: Photographs | None) -> str:
    """The whole page."""
    try:
        backbone, fault = load(run.path, any_size=True), ""
    except UserError as error:
        backbone, fault = None, str(error)
    return page(heading(run, pictures), lead(run, pictures, backbone), parts(run, pictures, backbone, fault))


def page(title: str, told: str, sections: dict[str, Markup]) -> str:
    """Head, contents, sections and foot."""
    contents, links = [], []
    for name, content in sections.items():
        anchor = name.lower().replace(" ", "-")
        if name != "Summary":
            links.append(tag("li", tag("a", name, href=f"#{anchor}")))
        contents.append(tag("section", tag("h2", name), content, id=anchor, class_=anchor))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        tag("title", f"{title}: report"),
        tag("style", Markup(STYLE)),
    )
    opening = tag(
        "header",
        umbel_drawing(),
        tag("p", "Umbel report", class_="eyebrow"),
        tag("h1", title),
        tag("p", told, class_="lead"),
        tag("nav", tag("ul", *links), aria_label="Sections"),
    )
    foot = tag("footer", f"Written by Umbel {__version__} on {time.strftime('%Y-%m-%d %H:%M %z')}.")
    body = tag("body", opening, "\n", tag("main", *contents), foot)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
