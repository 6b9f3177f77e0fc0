"""The page of a report: one file that fetches nothing and lets no script run but the one that sorts its tables."""

from __future__ import annotations

import time

from umbel import __version__
from umbel.evaluation.report_html import Markup, tag
from umbel.evaluation.report_sorting import allowed, script
from umbel.evaluation.report_style import STYLE, umbel_drawing
from umbel.evaluation.report_style_pictures import PICTURES

GENERATOR = "Umbel report"
# Nothing may be fetched and no other script may run, whatever a name in the data tries.
POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed()}"


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
        tag("style", Markup(STYLE + PICTURES)),
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
    body = tag("body", opening, "\n", tag("main", *contents), foot, script())
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
