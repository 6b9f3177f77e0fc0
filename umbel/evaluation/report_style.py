"""How a report looks: one style sheet, light and dark, for desktop and phone, and the umbel at its head."""

from __future__ import annotations

import math

from umbel.evaluation.report_html import Markup, tag

STYLE = """
:root { color-scheme: light dark; --paper: #faf8f1; --card: #fffefa; --ink: #22281e; --soft: #566050; --rule: #ddd9c9;
  --leaf: #3c6e37; --bark: #9a5b1e; --wrong: #a03a28; }
@media (prefers-color-scheme: dark) { :root { --paper: #161a15; --card: #1e231c; --ink: #e7e6da; --soft: #a9b0a0;
  --rule: #363d32; --leaf: #96c48a; --bark: #dba368; --wrong: #f0937f; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.6;
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
main, header, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 3.5rem; text-align: center; }
header svg { width: 7rem; height: auto; margin: 0 auto; color: var(--leaf); }
h1, h2, h3 { font-family: "Iowan Old Style", Palatino, "Palatino Linotype", Georgia, "DejaVu Serif", serif; }
h1 { font-size: clamp(1.7rem, 5vw, 2.6rem); line-height: 1.2; font-weight: 500; margin: .6rem 0 1rem; }
h2 { font-size: 1.6rem; font-weight: 500; line-height: 1.25; margin: 0 0 1rem; }
h3 { font-size: 1.05rem; font-weight: 600; margin: 0 0 .25rem; }
.eyebrow { margin: 1rem 0 0; font-size: .85rem; letter-spacing: .12em; text-transform: uppercase; color: var(--leaf); }
.lead { max-width: 44rem; margin: 0 auto; color: var(--soft); }
section { padding: 3rem 0 0; }
section::before { content: ""; display: block; width: 3rem; border-top: 2px solid var(--leaf); margin-bottom: 1rem; }
section > p { max-width: 44rem; }
.summary p { font-size: 1.15rem; }
.aside { color: var(--soft); font-style: italic; }
nav { margin-top: 1.8rem; } nav ul { list-style: none; padding: 0; margin: 0; display: flex; flex-wrap: wrap;
  justify-content: center; gap: .2rem 1.2rem; font-size: .93rem; }
nav a { display: inline-block; padding: .35rem 0; }
a { color: var(--leaf); text-underline-offset: .2em; }
:focus-visible { outline: 3px solid var(--bark); outline-offset: 2px; }
figure { margin: 0; } img, svg { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; line-height: 1.45; margin-top: .5rem; }
.table { margin: 1.5rem 0; }
.scroll { overflow-x: auto; background: linear-gradient(to right, var(--paper) 40%, transparent) 0 0 / 2rem 100%,
  linear-gradient(to left, var(--paper) 40%, transparent) 100% 0 / 2rem 100%,
  linear-gradient(to right, var(--rule), transparent) 0 0 / .8rem 100%,
  linear-gradient(to left, var(--rule), transparent) 100% 0 / .8rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .97rem; }
th, td { padding: .55rem .8rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; } tbody th { font-weight: 400; }
td:last-child, th:last-child { padding-right: 0; }
thead th { font-size: .85rem; font-weight: 600; color: var(--soft); vertical-align: bottom;
  white-space: normal; }
.best th, .best td { font-weight: 700; }
.bars { max-width: 44rem; margin: 1.5rem 0; }
.bar { margin-bottom: .9rem; }
.label { display: flex; justify-content: space-between; gap: 1rem; font-variant-numeric: tabular-nums; }
.track { position: relative; height: .8rem; background: var(--rule); border-radius: 2px; margin-top: .2rem; }
.fill { position: absolute; inset: 0 auto 0 0; background: var(--bark); opacity: .75; border-radius: 2px; }
.ours .fill { background: var(--leaf); opacity: 1; }
.whisker { position: absolute; top: -.15rem; bottom: -.15rem; min-width: 3px;
  border: solid var(--ink); border-width: 0 2px; }
.whisker::before { content: ""; position: absolute; left: 0; right: 0; top: 50%; border-top: 2px solid var(--ink); }
.scale { display: flex; justify-content: space-between; color: var(--soft); font-size: .85rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 0 1.8rem; }
.panel { display: grid; grid-row: span 3; grid-template-rows: subgrid; margin-top: 1.6rem; }
.panel > figure { grid-row: 3; }
.panel svg { width: 100%; } .panel text { font-family: inherit; }
.keys { margin: 0; display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .9rem; color: var(--soft); }
.key::before { content: ""; display: inline-block; width: 1.4rem; border-top: 2px solid var(--leaf);
  vertical-align: middle; margin-right: .4rem; }
.key-1::before { border-top: 2px dashed var(--bark); }
.shades { display: inline-flex; align-self: center; width: 6rem; height: .8rem; }
.shade { flex: 1; background: var(--leaf); }
.warning { border-left: 4px solid var(--wrong); padding-left: 1rem; }
.sheet img { background: #fff; border: 1px solid var(--rule); border-radius: 4px; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1.6rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; align-items: center; } .pair img { width: 100%; }
.pair img, .retrieved img { border-radius: 3px; } .map { image-rendering: pixelated; }
.retrieved { display: grid; grid-template-columns: repeat(6, 1fr); gap: 1rem; padding: 1.4rem 0;
  border-bottom: 1px solid var(--rule); }
.retrieved img { width: 100%; aspect-ratio: 1; object-fit: cover; }
.retrieved figcaption { color: var(--ink); line-height: 1.3; } .retrieved i { display: block; }
.retrieved figure { border-top: 3px solid transparent; padding-top: .4rem; }
.retrieved .query { border-top-color: var(--ink); } .retrieved .right { border-top-color: var(--leaf); }
.retrieved .wrong { border-top: 3px dashed var(--wrong); }
.mark { color: var(--soft); } .right .mark { color: var(--leaf); } .wrong .mark { color: var(--wrong); }
.facts { margin: 0 0 1.8rem; } .facts div { display: grid; grid-template-columns: 13rem 1fr; gap: 1rem;
  padding: .45rem 0; border-bottom: 1px solid var(--rule); }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .9em/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .6rem 0; } ol { padding-left: 1.4rem; }
pre { overflow: auto; max-height: 30rem; margin: 0; padding: 1rem; background: var(--card);
  border: 1px solid var(--rule); border-radius: 4px; } pre code { overflow-wrap: normal; }
footer { padding-top: 4rem; padding-bottom: 3rem; color: var(--soft); font-size: .9rem; text-align: center; }
@media (max-width: 40rem) { body { font-size: 1rem; } header { padding-top: 2rem; } section { padding-top: 2.4rem; }
  .retrieved { grid-template-columns: repeat(3, 1fr); gap: .8rem; } .retrieved figcaption { font-size: .82rem; }
  .facts div { grid-template-columns: 1fr; gap: 0; } table { font-size: .88rem; } th, td { padding: .5rem .25rem; }
  tbody th { white-space: normal; } }
@media print { body { background: #fff; } section { break-inside: avoid; } nav { display: none; } }
"""


def umbel_drawing() -> Markup:
    """An umbel: stalks from one point, each with a smaller umbel at its end."""
    parts = [tag("path", d="M60 112 Q58 92 60 72")]
    for number in range(7):
        angle = math.radians(-78 + 26 * number)
        x, y = 60 + 44 * math.sin(angle), 72 - 48 * math.cos(angle)
        parts.append(
            tag("path", d=f"M60 72 Q{60 + 20 * math.sin(angle):.1f} {72 - 34 * math.cos(angle):.1f} {x:.1f} {y:.1f}")
        )
        for ray in range(5):
            turned = angle + math.radians(-64 + 32 * ray)
            tip = x + 9 * math.sin(turned), y - 9 * math.cos(turned)
            parts.append(tag("path", d=f"M{x:.1f} {y:.1f} L{tip[0]:.1f} {tip[1]:.1f}"))
            parts.append(tag("circle", cx=f"{tip[0]:.1f}", cy=f"{tip[1]:.1f}", r="1.9", fill="currentColor"))
    line = {"fill": "none", "stroke": "currentColor", "stroke-width": "1.1", "stroke-linecap": "round"}
    return tag("svg", *parts, viewBox="0 0 120 114", aria_hidden="true", **line)
