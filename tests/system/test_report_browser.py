"""A report in headless Chromium, under its own policy: tables sort, nothing is fetched, a phone scrolls no page.

The page stands in a frame of another page, which drives it and never touches its policy.
"""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umbel.data.index import open_shards
from umbel.data.make import MakeSyntheticConfig, make_synthetic
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.fewshot import interval
from umbel.evaluation.report import write_comparison

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"),
)
DRIVER = """<!doctype html><title>-</title><body style="margin:0"><iframe src="%s"
style="width:%dpx;height:900px;border:0"></iframe><script>
onload = () => {
  const told = (value) => { const p = document.createElement("pre"); p.textContent = value; document.body.append(p); };
  try {
    const view = frames[0], page = view.document;
    told(JSON.stringify((() => { %s })()));
  } catch (error) { told(JSON.stringify({error: String(error)})); }
};
</script>"""
NAMES = ("beta 2", "alpha", "gamma", "delta")
MEANS = (0.081, 0.62, 0.1, 0.335)

Drive = Callable[..., tuple[Any, list[str]]]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of four kinds of features, one of them with embeddings."""
    root = tmp_path_factory.mktemp("browser")
    make_synthetic(MakeSyntheticConfig(out=root / "shards", train=24, test=24, size=32, workers=1))
    shards = open_shards(str(root / "shards"))
    rows = []
    for name, mean in zip(("pretrained backbone", *NAMES[1:]), MEANS, strict=True):
        accuracies = (mean + 0.01 * np.random.default_rng(len(rows)).normal(size=8)).tolist()
        middle, half = interval(accuracies)
        row = {"name": name, "shots": 5, "draws": 8, "accuracies": accuracies, "mean": middle, "interval": half}
        rows.append(row | {"knn": mean, "knn_plain": 1 - mean, "k": 20, "seconds": 1.0, "left_out": []})
    folder = root / NAMES[0]
    folder.mkdir()
    protocol = {"shots": 5, "draws": 8, "seed": 0, "k": 20, "queries": "test"}
    told = {"format": 1, "command": "probe", "protocol": protocol, "rows": rows, "classes": list(shards.classes)}
    (folder / "probe.json").write_text(json.dumps(told))
    Embeddings(
        features=np.random.default_rng(0).normal(size=(48, 6)).astype(np.float32),
        label=shards.members["label"].astype(np.int64),
        split=np.repeat([0, 1], 24),
        keys=tuple(map(shards.key, range(48))),
        splits=("test", "train"),
        classes=shards.classes,
    ).save(folder / "embeddings")
    return write_comparison([str(folder)], data=str(root / "shards"), out=root / "report.html")


@pytest.fixture
def drive(report: Path, tmp_path: Path) -> Drive:
    """Run the body of a JavaScript function on the page (`view` is its window, `page` its document)."""
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")

    def run(body: str, *, page: Path = report, width: int = 1280) -> tuple[Any, list[str]]:
        outer = tmp_path / "outer.html"
        outer.write_text(DRIVER % (page.as_uri(), width, body))
        command = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", outer.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        found = re.search(r"<pre>(.*?)</pre>", done.stdout, flags=re.DOTALL)
        assert found, done.stderr[-2000:]
        return json.loads(html.unescape(found[1])), re.findall(r"CONSOLE.*", done.stderr)

    return run


SORT = """
  const table = page.querySelector('[aria-label="Accuracies"] table'), seen = [];
  const column = (at) => [...table.tBodies[0].rows].map((row) => row.cells[at].textContent.trim());
  const state = () => [...table.querySelectorAll("thead th")].map((head) => head.getAttribute("aria-sort"));
  for (const [head, times] of [[0, 1], [0, 1], [1, 1], [1, 1], [3, 1]]) {
    const button = table.querySelectorAll("thead button")[head];
    button.focus();
    if (page.activeElement !== button) return "no focus";
    button.click();
    seen.push([column(0), state()]);
  }
  return seen;
"""


def test_tables_sort_and_say_so(drive: Drive) -> None:
    seen, errors = drive(SORT)
    by_mean = [name for _, name in sorted(zip(MEANS, NAMES, strict=True))]
    assert [rows for rows, _ in seen] == [
        sorted(NAMES),
        sorted(NAMES, reverse=True),
        by_mean[::-1],  # the greatest number first, by the number and not by its letters
        by_mean,
        by_mean,  # 1 - mean, the greatest first
    ]
    assert [state for _, state in seen] == [
        ["ascending", None, None, None],
        ["descending", None, None, None],
        [None, "descending", None, None],
        [None, "ascending", None, None],
        [None, None, None, "descending"],
    ]
    assert errors == []


def test_dashes_come_last_and_minus_signs_count(drive: Drive, report: Path, tmp_path: Path) -> None:
    cells = ["–", "\N{MINUS SIGN}2.5 ± 1", "1,200", "+3.0", "–", "30 %"]
    body = "".join(f"<tr><th>{place}</th><td>{cell}</td></tr>" for place, cell in enumerate(cells))
    table = f'<table class="sorts" id="mine"><thead><tr><th>a</th><th>b</th></tr></thead><tbody>{body}</tbody></table>'
    other = tmp_path / "other.html"
    other.write_text(report.read_text().replace("</main>", f"{table}</main>"))
    click = """
      const mine = page.getElementById("mine"), seen = [];
      for (const _ of [0, 1]) {
        mine.querySelectorAll("button")[1].click();
        seen.push([...mine.tBodies[0].rows].map((row) => row.cells[1].textContent));
      }
      return seen;
    """
    seen, _ = drive(click, page=other)
    falling = ["1,200", "30 %", "+3.0", "\N{MINUS SIGN}2.5 ± 1", "–", "–"]
    assert seen == [falling, [*falling[:4][::-1], "–", "–"]]


def test_nothing_is_fetched_and_nothing_complains(drive: Drive) -> None:
    fetched, errors = drive("return view.performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert errors == []


def test_no_other_script_may_run(drive: Drive, report: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    evil = "<script>document.title = 'evil'</script><img src='x' onerror=\"document.title = 'evil'\">"
    other.write_text(report.read_text().replace("</main>", f"{evil}</main>"))
    title, errors = drive("return page.title", page=other)
    assert title != "evil"
    assert any("Content Security Policy" in line for line in errors)


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_scrolls_nothing_sideways(width: int, drive: Drive) -> None:
    body = "return [page.documentElement.scrollWidth, view.innerWidth]"
    # A photograph of the map that is open must not widen the page either.
    opened = "page.querySelectorAll('.map-inside [tabindex]').forEach((dot) => dot.focus());"
    assert drive(body, width=width)[0] == [width, width]
    assert drive(opened + body, width=width)[0] == [width, width]


def test_the_keyboard_opens_a_photograph_of_the_map(drive: Drive) -> None:
    body = """
      const dot = page.querySelector(".map-inside [tabindex]"), style = () => view.getComputedStyle(dot, "::after");
      const before = style().content;
      dot.focus();
      const { content, backgroundImage } = style();
      return { before, content, name: dot.dataset.n, image: backgroundImage.slice(0, 27), label: dot.ariaLabel };
    """
    found, _ = drive(body)
    assert found["before"] == "none"
    assert found["content"] == json.dumps(found["name"])
    assert found["image"] == 'url("data:image/jpeg;base64'
    assert found["label"].startswith(found["name"])


def test_headings_descend_in_steps_and_all_has_a_name(drive: Drive) -> None:
    """What axe's rules ask of a page like this, as far as it can be told without axe."""
    body = """
      const named = (element) => (element.ariaLabel || element.alt || element.textContent || "").trim() !== "";
      const ids = [...page.querySelectorAll("[id]")].map((element) => element.id);
      return {
        headings: [...page.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((head) => Number(head.tagName[1])),
        nameless: [...page.querySelectorAll("button, a, img, summary, [role], [tabindex]")]
          .filter((element) => !named(element)).map((element) => element.outerHTML.slice(0, 80)),
        twice: ids.filter((id, place) => ids.indexOf(id) !== place),
        landmarks: ["header", "nav", "main", "footer"].map((name) => page.querySelectorAll("body " + name).length),
        outside: [...page.body.children]
          .filter((part) => !["HEADER", "MAIN", "FOOTER", "SCRIPT"].includes(part.tagName)).length,
        regions: [...page.querySelectorAll("[role=region]")].map((region) => region.ariaLabel),
        small: [...page.querySelectorAll("main *")].filter((element) =>
          parseFloat(view.getComputedStyle(element).fontSize) < 12).length,
      };
    """
    found, _ = drive(body)
    headings = found["headings"]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert found["nameless"] == []
    assert found["twice"] == []
    assert found["landmarks"] == [1, 1, 1, 1]
    assert found["outside"] == 0
    assert len(set(found["regions"])) == len(found["regions"]) > 2
    assert found["small"] == 0
