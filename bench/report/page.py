# SPDX-License-Identifier: Apache-2.0
"""The report as one page that needs nothing else: a section for each suite, with its pictures and its table."""

from __future__ import annotations

from html import escape

from bench.report import bars, curveplot, dotplot, page_table, plots, terminal
from bench.report.page_style import style_sheet
from bench.results import text
from bench.results.estimate import middle_ratio
from bench.results.results import Cell, Results, by_suite, latency_quantiles, summarize
from bench.workloads import SUITES

_NAMES = {"": "Figures", "copyup": "Copy-up", "realwork": "Real work", "mount": "Mounting"}
_TITLES = {"mount": "from starting a mount until it answers"}


def html(results: Results) -> str:
    """Return the page."""
    groups = by_suite(summarize(results))
    date = str(results.run["environment"]["date"])[:10]
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>unionbench {escape(date)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{style_sheet(len(results.targets))}</style>",
        _header(results, date),
        _chips(results),
        _contents(groups),
        "<main>",
        *(_overview(results, groups) if len(groups) > 1 else ()),
        *(_section(results, suite, rows) for suite, rows in groups),
        _problems(results),
        _method(results),
        f'<h2 id="targets">Targets</h2><dl>{_targets(results)}</dl>',
        f'<h2 id="environment">Environment</h2><dl>{_environment(results)}</dl></main></html>',
    ]
    return "\n".join(parts) + "\n"


def _header(results: Results, date: str) -> str:
    facts = results.run["environment"]
    measured = [target for target in results.targets if any(s["target"] == target for s in results.samples)]
    lines = [
        f"{date} · {len(measured)} targets · {text.rounds(results.rounds)} · {len(results.samples):,} samples",
        f"Linux {facts['kernel']} · {facts.get('cpu', '')} × {facts['cpus']}, {facts['virtual']} · branches on {facts['backing']}"
        + (f" · commit {facts['git']}" if facts.get("git") else ""),
    ]
    warnings = [facts["busy"]] if facts["busy"] else []
    if results.end is None or results.end["reason"] == "interrupted":
        warnings.append("the run was interrupted: what was measured until then is shown")
    elif results.end["reason"] == "time":
        warnings.append(f"the time was up after {results.rounds} of {results.run['rounds']} rounds")
    slowed = [f"{t['label']} by {t['slowdown']:.0%}" for t in results.run["targets"] if t["slowdown"]]
    if slowed:
        warnings.append(f"slowed down on purpose: {', '.join(slowed)}")
    note = f'<p class="note">Mind: {escape("; ".join(warnings))}.</p>' if warnings else ""
    lead = "<br>".join(map(escape, lines))
    return f'<header><h1>Union filesystems side by side</h1><p class="lead">{lead}</p>{note}</header>'


def _chips(results: Results) -> str:
    marks = {
        name: (plots.COLOURS.index(colour), plots.MARK_TEXTS[plots.MARKS.index(mark)])
        for name, (colour, mark) in plots.styles(results).items()
    }
    labels = "".join(
        f'<label><input type="checkbox" id="on{number}" checked><span style="color:var(--c{marks[name][0]})">'
        f"{marks[name][1]}</span>{escape(name)}</label>"
        for number, name in enumerate(results.targets)
    )
    intervals = '<label><input type="checkbox" id="intervals" checked>intervals in tables</label>'
    return f'<details class="chips" open><summary>targets shown (also the legend)</summary>{labels}{intervals}</details>'


def _contents(groups: list[tuple[str, list[list[Cell]]]]) -> str:
    links = ['<a href="#overview">At a glance</a>'] if len(groups) > 1 else []
    links += [f'<a href="#{_anchor(s)}">{_name(s)} <small>{len(rows)}</small></a>' for s, rows in groups]
    others = ("Problems", "Method", "Targets", "Environment")
    links += [f'<a href="#{name.lower()}">{name}</a>' for name in others]
    return f'<nav class="toc"><div>{"".join(links)}</div></nav>'


def _anchor(suite: str) -> str:
    return f"suite-{suite}"


def _name(suite: str) -> str:
    return escape(_NAMES.get(suite, suite.replace("-", " ").capitalize()))


def _overview(results: Results, groups: list[tuple[str, list[list[Cell]]]]) -> list[str]:
    """Say of each suite and target how its figures lie: orientation, not a result."""
    names = [
        n
        for n in results.targets
        if any(c.ratio for _, rows in groups for row in rows for c in row if c.target == n)
    ]
    relative = escape("; ".join([terminal.baselines(results), *terminal.other_baselines(results)]))
    return [
        '<h2 id="overview">At a glance</h2>',
        (
            f'<p class="sub">The middle one of the ratios of all figures of a suite, and below it the smallest and the largest: '
            f"times as slow as {relative}. For orientation; the figures themselves follow.</p>"
        ),
        *(
            _overview_table(results, groups, [n for n in members if n in names and n != baseline])
            for baseline, members in page_table.groups(results).items()
        ),
    ]


def _overview_table(results: Results, groups: list[tuple[str, list[list[Cell]]]], names: list[str]) -> str:
    """Return the table of targets with the same baseline; nothing where there are none."""
    lines = [
        f'<tr><td><a href="#{_anchor(suite)}">{_name(suite)}</a></td>'
        + "".join(_overview_cell(results, rows, name) for name in names)
        + "</tr>"
        for suite, rows in groups
        if any(cell.ratio for row in rows for cell in row if cell.target in names)
    ]
    if not lines:
        return ""
    head = "".join(f'<th class="t{results.targets.index(n)}">{escape(n)}</th>' for n in names)
    start = f'<div class="wide"><table><thead><tr><th>suite</th>{head}</tr></thead><tbody>'
    return f"{start}{''.join(lines)}</tbody></table></div>"


def _overview_cell(results: Results, rows: list[list[Cell]], name: str) -> str:
    number = results.targets.index(name)
    ratios = [cell.ratio.median for row in rows for cell in row if cell.target == name and cell.ratio]
    if not ratios:
        return f'<td class="t{number} none">–</td>'
    middle = middle_ratio(ratios)
    inside = f"{text.three(min(ratios))}–{text.three(max(ratios))}"
    return f'<td class="t{number} {text.heat(middle)}"><b>×{text.three(middle)}</b><i>{inside}</i></td>'


def _section(results: Results, suite: str, rows: list[list[Cell]]) -> str:
    parts = [
        f'<section id="{_anchor(suite)}"><h2>{_name(suite)}</h2>',
        f'<p class="sub">{escape(_TITLES.get(suite) or SUITES.get(suite, ""))}</p>',
        *_bars(results, rows),
        *_dots(results, suite, rows),
        page_table.tables(results, rows),
        *_curves(results, suite, rows),
        *_latencies(results, suite, rows),
        "</section>",
    ]
    return "\n".join(parts)


def _picture(drawing: plots.Drawing, name: str) -> str:
    """Return a drawing at one scale for all: wide ones fill the page, narrow ones stay narrow."""
    width = drawing.get_figwidth()
    style = f"width:{6.6 * width:.0f}rem;min-width:{3.6 * width:.0f}rem"
    return f'<div class="picture"><div style="{style}">{plots.svg(drawing, name)}</div></div>'


def _bars(results: Results, rows: list[list[Cell]]) -> list[str]:
    about = "Medians with their intervals, hollow: unstable; the line is the baseline."
    found = [_picture(drawing, name) for name, drawing in bars.pictures(results, rows)]
    return [f'<p class="sub">{about}</p>', *found] if found else []


def _dots(results: Results, suite: str, rows: list[list[Cell]]) -> list[str]:
    found: list[str] = []
    for number, strip in enumerate(dotplot.strips(dotplot.compared_targets(results, rows))):
        drawing = dotplot.ratios(results, rows, strip, panel=1.15 if len(strip) >= 6 else 1.5)
        if drawing is not None:
            found.append(_picture(drawing, f"ratios-{suite}-{number}"))
    return found


def _curves(results: Results, suite: str, rows: list[list[Cell]]) -> list[str]:
    found = [plots.svg(drawing, f"curve-{suite}-{name}") for name, drawing in curveplot.curves(results, rows)]
    if not found:
        return []
    pictures = "".join(f"<div>{picture}</div>" for picture in found)
    about = "Medians with their intervals; both axes are logarithmic; hollow: unstable."
    return [f'<h3>Scaling</h3><p class="sub">{about}</p><div class="plots">{pictures}</div>']


def _latencies(results: Results, suite: str, rows: list[list[Cell]]) -> list[str]:
    quantiles = latency_quantiles(results)
    names = [row[0].figure.name for row in rows]
    names = [name for name in names if any((name, target) in quantiles for target in results.targets)]
    targets = [target for target in results.targets if any((name, target) in quantiles for name in names)]
    if not names:
        return []
    found = ["<h3>Latency of single operations</h3>"]
    for number, strip in enumerate(dotplot.strips(targets)):
        drawing = dotplot.latencies(results, names, quantiles, strip)
        found.append(_picture(drawing, f"latencies-{suite}-{number}"))
    curves = curveplot.distributions(results, names, quantiles)
    pictures = "".join(
        f"<div>{plots.svg(drawing, f'latency-{suite}-{name}')}</div>" for name, drawing in curves
    )
    about = "Share of the operations (vertical, stretched towards 100 %) that took at most so long; median of the rounds."
    found.append(f'<details><summary>Distributions ({len(curves)})</summary><p class="sub">{about}</p>')
    found.append(f'<div class="plots">{pictures}</div></details>')
    return found


def _problems(results: Results) -> str:
    lines = terminal.problems(results)
    lacking: dict[str, list[str]] = {}
    for failure in results.failures:
        if failure["kind"] == "unsupported":
            lacking.setdefault(failure["message"], []).append(failure["workload"])
    lines += [f"n/a: {message} ({', '.join(dict.fromkeys(works))})" for message, works in lacking.items()]
    cells = [cell for row in summarize(results) for cell in row if cell.ratio]
    unstable = sum(not cell.ratio.stable for cell in cells if cell.ratio)
    lines.append(f"{unstable} of {len(cells)} ratios are unstable and shown as intervals only (see Method)")
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<h2 id="problems">Problems</h2><p class="sub">What failed, is missing or does not apply.</p><ul>{listed}</ul>'


def _method(results: Results) -> str:
    counts = {cell.value.count for row in summarize(results) for cell in row if cell.value}
    listed = "".join(f"<li>{escape(line)}</li>" for line in text.method(counts, terminal.baselines(results)))
    key = (
        '<p class="key"><span class="f1">faster</span><span class="s1">slower, to ×1.5</span><span class="s2">to ×3</span>'
        '<span class="s3">to ×10</span><span class="s4">more</span> where the whole interval is on that side of ×1</p>'
    )
    return f'<h2 id="method">Method</h2>{key}<ul>{listed}</ul>'


def _targets(results: Results) -> str:
    return "".join(
        f"<dt>{escape(t['label'])}</dt><dd>{escape(t['title'])}; {escape(t['version'] or 'of this system')}"
        + (f"; slowed down by {t['slowdown']:.0%} on purpose" if t["slowdown"] else "")
        + "</dd>"
        for t in results.run["targets"]
    )


def _environment(results: Results) -> str:
    facts = dict(results.run["environment"])
    facts["command"] = results.run["command"]
    facts["pinned"] = "servers and clients on processors of their own" if results.run["pinned"] else "no"
    if "memory" in facts:
        facts["memory"] = text.binary_size(facts["memory"] >> 20 << 20)
    if results.end:
        facts["load at the end"] = results.end["load"]
        facts["seconds"] = results.end["seconds"]
    return "".join(
        f"<dt>{escape(k)}</dt><dd>{escape(_fact(v))}</dd>" for k, v in facts.items() if v not in ("", {})
    )


def _fact(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return str(value)
