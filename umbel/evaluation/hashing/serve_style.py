"""How the local page looks: the report's paper and ink, with a place to drop a photograph and cards for the answer."""

from __future__ import annotations

from umbel.evaluation.report_style import STYLE as REPORT

STYLE = (
    REPORT
    + """
header { padding-top: 2rem; } header svg { width: 4.5rem; } section { padding-top: 2rem; }
h2:focus { outline: none; }
label { display: block; font-weight: 600; }
.hint { margin: .4rem 0 0; color: var(--soft); font-size: .9rem; }
.drop { padding: 1.6rem 1.2rem; text-align: center; background: var(--card); border: 2px dashed var(--leaf);
  border-radius: 8px; }
.drop.over { border-style: solid; background: var(--paper); }
.drop label { font-size: 1.15rem; margin-bottom: .8rem; cursor: pointer; }
input, button { font: inherit; color: var(--ink); }
input[type=file] { width: 17.5rem; max-width: 100%; }
input[type=file]::file-selector-button, form button[type=submit] { font: inherit; padding: .6rem 1.1rem;
  color: var(--card); background: var(--leaf); border: 0; border-radius: 6px; cursor: pointer; }
input[type=file]::file-selector-button { margin-right: .8rem; }
form { margin-top: 1.6rem; } .line { display: flex; gap: .6rem; margin-top: .4rem; }
input[type=text] { flex: 1; min-width: 0; padding: .55rem .7rem; background: var(--card); border: 1px solid var(--soft);
  border-radius: 6px; }
.example, .more { padding: .3rem .1rem; background: none; border: 0; color: var(--leaf); text-decoration: underline;
  text-underline-offset: .2em; cursor: pointer; text-align: left; overflow-wrap: anywhere; }
#status { margin-bottom: 0; } #status:empty, #error:empty { padding: 0; margin: 0; border: 0; }
#error { border-left: 4px solid var(--wrong); padding: .2rem 0 .2rem 1rem; }
#legend { color: var(--soft); font-size: .9rem; }
.query { display: flex; gap: 1rem; align-items: center; margin: 1rem 0; }
.query img { width: 9rem; height: 9rem; object-fit: cover; border-radius: 6px; border: 3px solid var(--bark); }
.query p { margin: 0; overflow-wrap: anywhere; }
.found { list-style: none; padding: 0; display: grid; gap: 1.4rem 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(46%, 12rem), 1fr)); }
#answer[aria-busy=true] { opacity: .5; }
.found li { display: flex; flex-direction: column; min-width: 0; }
.found img, .blank { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 6px; background: var(--card); }
.blank { display: grid; place-items: center; color: var(--soft); border: 1px solid var(--rule); font-size: .9rem; }
.found p { margin: .4rem 0 0; line-height: 1.35; } .name { font-style: italic; font-weight: 600; }
.found .key { color: var(--soft); font-size: .85rem; margin: 0; overflow-wrap: anywhere; }
.found .key::before { content: none; }
.found .track { margin-top: .4rem; overflow: hidden; } .found .fill { background: var(--leaf); opacity: 1; }
.found .track::after { content: ""; position: absolute; top: 0; bottom: 0; left: 50%;
  border-left: 2px solid var(--ink); }
.found .bits { font-size: .9rem; font-variant-numeric: tabular-nums; margin-top: .25rem; }
.found .more { align-self: flex-start; margin-top: auto; font-size: .9rem; min-height: 1.7rem; }
@media (max-width: 40rem) { header { padding-top: 1.2rem; } .query img { width: 6.5rem; height: 6.5rem; } }
@media (prefers-contrast: more) { .track { outline: 1px solid var(--ink); } }
"""
)
