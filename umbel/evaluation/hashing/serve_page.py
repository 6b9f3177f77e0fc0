"""The local page's HTML: it carries no script and no style of its own, and every name in it is escaped."""

from __future__ import annotations

from pathlib import Path

from umbel.evaluation.hashing.codes import Codes
from umbel.evaluation.hashing.serve_upload import MOST_BYTES, MOST_PIXELS
from umbel.evaluation.report_html import Markup, join, tag
from umbel.evaluation.report_style import umbel_drawing

TITLE = "Nearest photographs"


def page(codes: Codes, folder: Path, *, photographs: bool, uploads: bool, words: bool = False) -> str:
    """The page for a set of codes.

    Args:
        photographs: pictures can be shown.
        uploads: a query may be a photograph.
        words: a query may be a text.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{TITLE}: {folder.name}"),
        _link(rel="stylesheet", href="/page.css"),
        _link(rel="icon", href="/icon.svg", type="image/svg+xml"),
        tag("script", src="/page.js", defer=""),
    )
    species = f" of {len(codes.classes):,} species" if codes.classes else ""
    method = codes.provenance.get("coder", {}).get("method", "")
    lead = f"{len(codes):,} photographs{species}, each a code of {codes.bits} bits{f' ({method})' if method else ''}."
    opening = tag("header", umbel_drawing(), tag("h1", TITLE), tag("p", lead, class_="lead"))
    # What tells of an answer must be on the page before there is one: a screen reader speaks what changes in it.
    telling = (tag("p", "", id="status", role="status"), tag("p", "", id="error", role="alert"))
    question = tag("h2", "What are you looking for?")
    asking = tag("section", question, *_forms(codes, uploads, words), *telling, aria_label="Search")
    answer = tag(
        "section",
        tag("h2", "Answer", id="heading", tabindex="-1"),
        tag("div", "", id="query", class_="query"),
        tag("p", _legend(codes), id="legend"),
        tag("ol", "", id="found", class_="found"),
        id="answer",
        hidden="",
        aria_label="Answer",
    )
    limits = {"data_bytes": str(MOST_BYTES), "data_pictures": "yes" if photographs else "no"}
    main = tag("main", asking, answer, id="main", **limits)
    quiet = tag("noscript", tag("p", "This page needs its script: please allow scripts for this address."))
    foot = tag("footer", f"Umbel searches on this machine; photographs do not leave it. Codes: {folder.name}.")
    return f"<!doctype html>\n{tag('html', head, tag('body', opening, quiet, main, foot), lang='en')}\n"


def icon() -> str:
    """The umbel as a picture of its own."""
    return str(umbel_drawing()).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" color="#5a9152" ', 1)


def _forms(codes: Codes, uploads: bool, words: bool) -> list[Markup]:
    forms = []
    if uploads:
        pick = tag("label", "Drop a photograph here, or pick one", for_="photograph")
        bound = tag(
            "p",
            f"JPEG, PNG or WebP, at most {MOST_BYTES >> 20} MB and {MOST_PIXELS // 1_000_000} megapixels.",
            class_="hint",
            id="bound",
        )
        field = _input(
            type="file",
            id="photograph",
            name="photograph",
            accept="image/jpeg,image/png,image/webp",
            aria_describedby="bound",
        )
        forms.append(tag("div", pick, field, bound, class_="drop", id="drop"))
    if words:
        line = tag(
            "div", _input(type="text", id="text", name="text"), tag("button", "Search", type="submit"), class_="line"
        )
        label = "Or say it in words" if uploads else "Say it in words"
        forms.append(tag("form", tag("label", label, for_="text"), line, id="by-text"))
    first = codes.keys[0]
    example = tag("button", first, type="button", class_="example", id="example")
    field = _input(
        type="text",
        id="key",
        name="key",
        autocomplete="off",
        spellcheck="false",
        autocapitalize="off",
        aria_describedby="for-example",
    )
    label = "Or the key of a photograph of the set" if uploads or words else "The key of a photograph of the set"
    line = tag("div", field, tag("button", "Search", type="submit"), class_="line")
    hint = tag("p", join("For example ", example), class_="hint", id="for-example")
    forms.append(tag("form", tag("label", label, for_="key"), line, hint, id="by-key"))
    return forms


def _legend(codes: Codes) -> str:
    return (
        f"The bar shows how many of the {codes.bits} bits agree; two codes that have nothing to do with each other "
        "agree in about half of them, at the mark in the middle."
    )


def _input(**attributes: str) -> Markup:
    return _void("input", attributes)


def _link(**attributes: str) -> Markup:
    return _void("link", attributes)


def _void(name: str, attributes: dict[str, str]) -> Markup:
    """An element without an end, from `tag`'s escaping."""
    return Markup(str(tag(name, **attributes)).removesuffix(f"</{name}>"))
