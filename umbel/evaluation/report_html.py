"""HTML in which nothing is left unescaped by accident: plain strings are text, only `tag` makes markup."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

VOID = ("img", "meta", "br")
# A number and its unit stay on one line.
SPACE = "\N{NO-BREAK SPACE}"


class Markup(str):
    """HTML that `tag` made; every other string is escaped when it goes into a tag."""

    __slots__ = ()


def tag(name: str, /, *content: str, **attributes: str) -> Markup:
    """An element; `class_` and `aria_label` stand for class and aria-label."""
    told = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{told}>" if name in VOID else f"<{name}{told}>{join(*content)}</{name}>")


def join(*content: str, between: str = "") -> Markup:
    """Elements and texts one after the other."""
    return Markup(escape(between).join(part if isinstance(part, Markup) else escape(part) for part in content))


def picture(image: Image.Image, alt: str, *, exact: bool = False, class_: str = "") -> Markup:
    """A picture inside the page: JPEG, or PNG where every pixel counts."""
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.convert("RGB").save(buffer, "JPEG", quality=85, optimize=True, progressive=True)
    source = f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    size = {"width": str(image.width), "height": str(image.height)}
    return tag("img", src=source, alt=alt, **size, **({"class_": class_} if class_ else {}))


def figure(content: str, caption: str, *, class_: str = "") -> Markup:
    """A picture with its caption."""
    return tag("figure", content, tag("figcaption", caption), **({"class_": class_} if class_ else {}))


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    name: str,
    caption: str,
    total: bool = False,
    sorts: bool = True,
) -> Markup:
    """A table in a box of its own that scrolls sideways, over its caption; the first column names the row.

    Args:
        name: what the box is called to those who do not see it.
        total: the last row sums up the others, is set in bold and stays below them.
        sorts: the reader may sort the rows by any column.

    Raises:
        ValueError: a row has more or fewer cells than the head.
    """
    if any(len(row) != len(head) for row in rows):
        raise ValueError(f"table '{name}': every row must have {len(head)} cells, as its head has")
    header = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    lines = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    parts = [tag("tbody", *lines[: len(lines) - total]), *([tag("tfoot", lines[-1])] if total else [])]
    # A box that scrolls must be reachable by the keyboard, and then needs a name.
    box = {"class_": "scroll", "tabindex": "0", "role": "region", "aria_label": name}
    kind = {"class_": "sorts"} if sorts and len(lines) - total > 1 else {}
    return figure(tag("div", tag("table", header, *parts, **kind), **box), caption, class_="table")


def best(number: str) -> Markup:
    """A number that is better than all others of its column by more than chance; it carries its interval."""
    return tag("strong", number, tag("span", " best", class_="mark"))


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def aside(sentence: str) -> Markup:
    """Why something is not shown."""
    return tag("p", sentence, class_="aside")
