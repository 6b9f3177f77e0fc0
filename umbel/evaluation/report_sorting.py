"""Tables that sort: one small script that the page allows by its hash, and does without where scripts are off.

The policy names the script's SHA-256, so that no other script may run, whatever a name in the data tries.
"""

from __future__ import annotations

import base64
import hashlib

from umbel.evaluation.report_html import Markup, tag

# The buttons are made here, not in the page: without the script there is none that does nothing. Numbers sort by the
# first number of their cell (a percentage before its interval), the greatest first; a dash comes last.
SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  const number = (text) => {
    const found = text.replace(/,/g, "").replace(/\\u2212/g, "-").match(/^\\s*[+-]?\\d+(\\.\\d+)?/);
    return found ? Number(found[0].replace("+", "")) : NaN;
  };
  table.tHead.rows[0].querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rows = [...body.rows].map((row) => [row, row.cells[column].textContent.trim()]);
      const numeric = rows.every(([, text]) => text === "\\u2013" || !Number.isNaN(number(text)));
      const before = head.getAttribute("aria-sort");
      const rising = before === null ? !numeric : before === "descending";
      const turn = rising ? 1 : -1;
      rows.sort(([, a], [, b]) => {
        if (!numeric) return turn * a.localeCompare(b);
        const [x, y] = [number(a), number(b)];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return turn * (x - y);
      });
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      body.append(...rows.map(([row]) => row));
    });
  });
}
"""


def allowed() -> str:
    """The script's hash as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"


def script() -> Markup:
    """The element, to stand at the end of the body."""
    return tag("script", Markup(SCRIPT))
