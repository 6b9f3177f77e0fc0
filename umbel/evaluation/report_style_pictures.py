"""How maps, rows of photographs and sorted tables of a report look; beside `report_style`."""

from __future__ import annotations

# Each group has a color, a dash for its line and a shape for its marks, so that nothing is told by color alone. The
# colors stand out by 3 from the paper of the day and from that of the night.
GROUP_COLORS = ("#2a78b0", "#c4511f", "#2f8f5b", "#9a5fc4", "#a87a12", "#cf4a7c", "#5e8424", "#8a6d5a")
_DASHES = ("solid", "dashed", "dotted")
_SHAPES = (
    "circle(50%)",
    "inset(8%)",
    "polygon(50% 0, 100% 95%, 0 95%)",
    "polygon(50% 0, 100% 50%, 50% 100%, 0 50%)",
    "polygon(33% 0, 67% 0, 67% 33%, 100% 33%, 100% 67%, 67% 67%, 67% 100%, 33% 100%, 33% 67%, 0 67%, 0 33%, 33% 33%)",
    "polygon(0 5%, 100% 5%, 50% 100%)",
    "polygon(0 30%, 100% 30%, 100% 70%, 0 70%)",
    "polygon(30% 0, 70% 0, 70% 100%, 30% 100%)",
)
_OF_GROUPS = "".join(
    f".g{number}::before {{ background: var(--g{number}); clip-path: {shape}; opacity: 1; transform: none; }}\n"
    f".line-{number}::before {{ border-color: var(--g{number}); border-top-style: {_DASHES[number % 3]}; }}\n"
    for number, shape in enumerate(_SHAPES)
)
_COLORS = "; ".join(f"--g{number}: {color}" for number, color in enumerate(GROUP_COLORS))

PICTURES = (
    f":root {{ {_COLORS}; }}\n"
    + """
thead button { all: unset; cursor: pointer; text-decoration: underline dotted; text-underline-offset: .25em; }
thead button:focus-visible { outline: 3px solid var(--bark); outline-offset: 2px; }
[aria-sort="ascending"] button::after { content: " \\2191"; }
[aria-sort="descending"] button::after { content: " \\2193"; }
tfoot th, tfoot td { font-weight: 700; }
td strong { font-weight: 700; } td .mark { font-weight: 400; color: var(--leaf); }
.curve { max-width: 34rem; margin-top: .6rem; } .curve svg { width: 100%; } .curve text { font-family: inherit; }
.chart { margin: 1.5rem 0; } .chart svg { width: 100%; } .chart text { font-family: inherit; }
.chart .scroll svg { min-width: 44rem; } .narrow { max-width: 44rem; }
.line::before { content: ""; display: inline-block; width: 1.8rem; border-top: 3px solid; vertical-align: middle;
  margin-right: .4rem; }
.thin { background: linear-gradient(var(--rule), var(--rule)) 0 50% / 100% 1px no-repeat; }
.zero { position: absolute; top: -.3rem; bottom: -.3rem; border-left: 2px dotted var(--soft); }
.point { position: absolute; top: 50%; width: .8rem; height: .8rem; margin: -.4rem; border-radius: 50%;
  background: var(--leaf); }
.triple { grid-template-columns: 1fr 1fr 1fr; }
.maps:has(.triple) { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.of-set { margin: 1rem 0 0; font-weight: 600; } .of-set + .retrieved { padding-top: .4rem; }
h3:not(:first-child) { margin-top: 2rem; } .panel h3 { margin: 0 0 .25rem; }
.confused { margin-top: 2rem; } .species { margin: 0; font-size: 1rem; }
.confused .of-set { margin: 0 0 .4rem; font-weight: 400; color: var(--soft); font-size: .93rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.4rem 2rem;
  margin-top: .6rem; }
.three { display: grid; grid-template-columns: repeat(3, 1fr); gap: .8rem; align-items: start; }
.three img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 3px; }
.three figure { border-top: 3px solid var(--leaf); padding-top: .4rem; }
.three .wrong { border-top: 3px dashed var(--wrong); } .three figcaption { margin-top: .3rem; line-height: 1.3; }
.embedding-maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 2rem; }
.map-box { background: var(--card); border: 1px solid var(--rule); border-radius: 4px; padding: 1rem;
  max-width: 46rem; }
.map-inside { position: relative; }
.map-keys { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .93rem; }
.dot { position: absolute; width: .75rem; height: .75rem; margin: -.375rem; font-style: normal; }
.map-keys .dot { position: relative; display: inline-block; margin: 0 .45rem 0 0; vertical-align: -.05em; }
@media (max-width: 40rem) { .map-inside .dot { width: .55rem; height: .55rem; margin: -.275rem; } }
.dot::before { content: ""; position: absolute; inset: 0; background: var(--soft); opacity: .35; transform: scale(.55);
  clip-path: circle(50%); }
.map-inside .dot:hover, .map-inside .dot:focus { z-index: 2; outline-offset: 1px; }
.map-inside .dot:hover::after, .map-inside .dot:focus::after { content: attr(data-n); position: absolute; top: 1rem;
  left: 1rem; width: 8rem; padding: 7.4rem .4rem .4rem; border: 1px solid var(--rule); border-radius: 4px;
  background: var(--card) var(--t) 50% .4rem / auto 6.6rem no-repeat; box-sizing: border-box; font-size: .85rem;
  line-height: 1.25; text-align: center; pointer-events: none; }
.map-inside .leftwards::after { left: auto !important; right: 1rem; }
.map-inside .upwards::after { top: auto !important; bottom: 1rem; }
"""
    + _OF_GROUPS
)
