# SPDX-License-Identifier: Apache-2.0
"""The style sheet of a report's page: light and dark, wide and narrow, and targets that can be switched off, without scripts."""

from __future__ import annotations

from bench.report.plots import COLOURS

_DARK = ("#e6e6e6", "#5aaee8", "#ff8a4c", "#35c79b", "#e39bc4", "#e0b040", "#8ed0f5", "#b793e0", "#a6a6a6")

_LIGHT_THEME = """
:root { color-scheme: light dark; --ink: #1a1a1b; --muted: #66666a; --grid: #dddde1; --band: #f4f4f6; --paper: #fffffe;
  --alarm: #b3261e; --slow: #d9480f; --fast: #0b7a75; --link: #0b5cad; --note: #fff6df; --edge: #e9c46a; COLOURS }
"""
_DARK_THEME = """
@media (prefers-color-scheme: dark) { :root { --ink: #e9e9ec; --muted: #9d9da6; --grid: #3a3a41; --band: #222227;
  --paper: #17171a; --alarm: #ff7b72; --slow: #ff7a33; --fast: #2fc4bb; --link: #7db7f5; --note: #2d2715; --edge: #7a6427;
  COLOURS } }
"""
_RULES = """
* { box-sizing: border-box; }
html { scroll-padding-top: 5rem; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif;
  display: grid; grid-template-columns: 12.5rem minmax(0, 1fr); grid-template-areas: "head head" "chips chips" "toc main"; }
header { grid-area: head; padding: 1.4rem 1.6rem .6rem; } main { grid-area: main; padding: 0 1.6rem 4rem 1rem; }
h1 { font-size: 1.55rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .2rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; } p { margin: .3rem 0 .7rem; max-width: 60rem; } a { color: var(--link); }
p.lead { max-width: none; } .lead, .sub { color: var(--muted); } .sub { font-size: .88rem; } code { font-size: .88em; }
.note { background: var(--note); border-left: 4px solid var(--edge); padding: .5rem .8rem; max-width: 60rem; font-size: .9rem; }
.chips { grid-area: chips; position: sticky; top: 0; z-index: 5; background: var(--paper); padding: .4rem 1.6rem;
  border-bottom: 1px solid var(--grid); font-size: .82rem; }
.chips summary { cursor: pointer; color: var(--muted); }
.chips label { display: inline-flex; gap: .3rem; align-items: center; margin: .12rem .8rem .12rem 0; cursor: pointer;
  white-space: nowrap; }
.chips input { margin: 0; accent-color: var(--muted); } .chips label:has(input:not(:checked)) { opacity: .5; }
.toc { grid-area: toc; font-size: .86rem; padding-left: 1.6rem; } .toc > div { position: sticky; top: 4rem; }
.toc a { display: block; padding: .13rem 0; text-decoration: none; } .toc a:hover { text-decoration: underline; }
.toc small { color: var(--muted); }
.wide { overflow: auto; max-height: min(88vh, 62rem); border: 1px solid var(--grid); border-radius: 6px; margin: .5rem 0 1rem; }
table { border-collapse: separate; border-spacing: 0; font-size: .78rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .42rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--grid);
  white-space: nowrap; background: var(--paper); }
thead th { position: sticky; top: 0; z-index: 2; border-bottom: 2px solid var(--muted); vertical-align: bottom;
  white-space: normal; min-width: 3.9rem; }
tr > :first-child { position: sticky; left: 0; z-index: 1; text-align: left; white-space: normal; min-width: 12rem;
  max-width: 17rem; font-weight: 500; border-right: 1px solid var(--grid); }
thead tr > :first-child { z-index: 3; }
td small, th small { display: block; color: var(--muted); font-weight: 400; font-size: .92em; }
td b { font-weight: 650; } td i { font-style: normal; display: block; color: var(--muted); font-size: .86em; }
body:has(#intervals:not(:checked)) td i { display: none; }
td.unsure { white-space: normal; } td.unsure b { font-weight: 400; border-bottom: 1px dotted var(--muted); }
td.none { color: var(--muted); }
td.bad { color: var(--alarm); white-space: normal; } td.base { color: var(--muted); }
td.f2 { background: color-mix(in srgb, var(--fast) 24%, var(--paper)); }
td.f1 { background: color-mix(in srgb, var(--fast) 12%, var(--paper)); }
td.s1 { background: color-mix(in srgb, var(--slow) 7%, var(--paper)); }
td.s2 { background: color-mix(in srgb, var(--slow) 16%, var(--paper)); }
td.s3 { background: color-mix(in srgb, var(--slow) 27%, var(--paper)); }
td.s4 { background: color-mix(in srgb, var(--slow) 40%, var(--paper)); }
.key span { display: inline-block; padding: .05rem .5rem; border-radius: 3px; margin: 0 .25rem .25rem 0; font-size: .82rem;
  border: 1px solid var(--grid); }
.key .f1 { background: color-mix(in srgb, var(--fast) 16%, var(--paper)); }
.key .s1 { background: color-mix(in srgb, var(--slow) 7%, var(--paper)); }
.key .s2 { background: color-mix(in srgb, var(--slow) 16%, var(--paper)); }
.key .s3 { background: color-mix(in srgb, var(--slow) 27%, var(--paper)); }
.key .s4 { background: color-mix(in srgb, var(--slow) 40%, var(--paper)); }
.picture { overflow-x: auto; } .picture svg { display: block; height: auto; margin: .3rem 0; }
.picture > div { max-width: 100%; } .picture svg { width: 100%; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(25rem, 100%), 1fr)); gap: .8rem 1.2rem; }
.plots svg { width: 100%; height: auto; }
main details { margin: .6rem 0; } main summary { cursor: pointer; font-weight: 600; font-size: .92rem; padding: .2rem 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem; font-size: .86rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; } li { margin: .2rem 0; max-width: 60rem; }
@media (max-width: 60rem) {
  body { grid-template-columns: minmax(0, 1fr); grid-template-areas: "head" "toc" "chips" "main"; }
  header, main, .toc, .chips { padding-left: .9rem; padding-right: .9rem; }
  .chips { position: static; border: 0; }
  .toc > div { position: static; display: flex; flex-wrap: wrap; gap: 0 .9rem; padding-bottom: .4rem; }
  tr > :first-child { min-width: 7.5rem; max-width: 8.5rem; } .wide { max-height: 80vh; }
  dl { grid-template-columns: minmax(0, 1fr); } dd { margin-bottom: .3rem; }
}
@media print { .chips, .toc { display: none; } .wide { max-height: none; overflow: visible; } body { display: block; } }
"""


def style_sheet(targets: int) -> str:
    """Return the style sheet for a page with so many targets, each of which a check box `on<number>` hides."""
    light = _LIGHT_THEME.replace("COLOURS", _variables(COLOURS))
    dark = _DARK_THEME.replace("COLOURS", _variables(_DARK))
    hide = "".join(
        f"body:has(#on{n}:not(:checked)) main .t{n} {{ display: none; }}\n" for n in range(targets)
    )
    return light + dark + _RULES + hide


def _variables(colours: tuple[str, ...]) -> str:
    return " ".join(f"--c{number}: {colour};" for number, colour in enumerate(colours))
