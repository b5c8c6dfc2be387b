# SPDX-License-Identifier: Apache-2.0
"""Turn a result file into a page, a Markdown text or a picture. Only reads; every number comes from `results`."""

from __future__ import annotations

from html import escape
from pathlib import Path

from bench import plots, text
from bench.results import Cell, Results, summarize
from bench.terminal import notes
from unionfs.errors import UserError

_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; max-width: 1280px; margin: 2rem auto;
  padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.lead { color: #555; margin-top: 0; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; width: 100%; } th, td { padding: .32rem .55rem; vertical-align: top; }
th { text-align: right; border-bottom: 2px solid #999; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
td { text-align: right; border-bottom: 1px solid #e6e6e6; white-space: nowrap; }
td:first-child { white-space: normal; min-width: 13rem; }
td small, p small { color: #777; display: block; } td .ratio { display: block; color: #555; font-size: .8rem; }
td.good .ratio { color: #00734f; font-weight: 600; } td.shaky .ratio { color: #a15c00; } td.none { color: #999; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .86rem; }
dt { color: #666; } dd { margin: 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: .6rem; }
svg { max-width: 100%; height: auto; } li { margin: .15rem 0; }
"""


def write(results: Results, output: Path) -> None:
    """Write a report in the form that the name's ending asks for; UserError for another ending."""
    if not results.samples:
        raise UserError("the result file holds no samples: nothing to report")
    forms = {".html": _html, ".md": _markdown}
    try:
        if output.suffix in forms:
            output.write_text(forms[output.suffix](results), encoding="utf-8")
        elif output.suffix == ".png":
            output.write_bytes(_png(results))
        else:
            raise UserError(f"{output}: unknown form", "end it in .html, .md or .png", status=2)
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}") from None


def _png(results: Results) -> bytes:
    drawing = plots.ratios(results)
    if drawing is None:
        raise UserError("no ratios to draw", f"they need a second target beside {results.baseline}")
    return plots.png(drawing)


# -- HTML -------------------------------------------------------------------------------------------------------------


def _html(results: Results) -> str:
    environment = results.run["environment"]
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><meta charset="utf-8"><title>unionbench {escape(environment["date"][:10])}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_CSS}</style>',
        (
            f"<h1>Union filesystems side by side</h1><p class=lead>unionbench, {escape(environment['date'][:10])}: "
            f"{_counted(results)}</p>"
        ),
        *_ratio_section(results),
        "<h2>Figures</h2>",
        f"<div class=wide>{_table(results)}</div>",
        *_plot_section(
            "Latencies", "Share of operations (vertical) that took at most so long.", plots.latencies(results)
        ),
        *_plot_section(
            "Scaling", "Medians with 95 % intervals; both axes logarithmic.", plots.curves(results)
        ),
        "<h2>Notes</h2><ul>",
        *(f"<li>{escape(line)}</li>" for line in [*notes(results), *_METHOD]),
        "</ul>",
        f"<h2>Targets</h2><dl>{_targets(results)}</dl>",
        f"<h2>Environment</h2><dl>{_environment(results)}</dl></html>",
    ]
    return "\n".join(parts) + "\n"


_METHOD = (
    (
        "Each round mounts all targets anew over the same read-only layers and measures them one after the other, in a new "
        "process each; the order moves on by one from round to round."
    ),
    (
        "Every workload checks what it read, listed or wrote, through the mount and in the branch behind it; a wrong answer is "
        "a failure, not a time."
    ),
    (
        "Values are medians over rounds. A value or ratio whose middle half spreads over more than 30 % of its median is called "
        "unstable and shown as its 95 % bootstrap interval only."
    ),
)


def _counted(results: Results) -> str:
    rounds = len({sample["round"] for sample in results.samples})
    targets = len({sample["target"] for sample in results.samples})
    return f"{len(results.samples)} samples, {targets} targets, {rounds} interleaved rounds"


def _ratio_section(results: Results) -> list[str]:
    drawing = plots.ratios(results)
    if drawing is None:
        return []
    return [f"<h2>How much slower than {escape(results.baseline)}</h2>", plots.svg(drawing)]


def _plot_section(title: str, text_below: str, drawings: list[tuple[str, plots.Drawing]]) -> list[str]:
    if not drawings:
        return []
    pictures = "".join(f"<div>{plots.svg(drawing)}</div>" for _, drawing in drawings)
    return [
        f"<h2>{title}</h2><p><small>{escape(text_below)}</small></p>",
        f'<div class="plots">{pictures}</div>',
    ]


def _table(results: Results) -> str:
    head = "".join(f"<th>{escape(target)}</th>" for target in results.targets)
    rows = "".join(
        f"<tr><td>{_row_title(row)}</td>{''.join(map(_html_cell, row))}</tr>\n" for row in summarize(results)
    )
    return f"<table><thead><tr><th>figure</th>{head}</tr></thead><tbody>\n{rows}</tbody></table>"


def _row_title(row: list[Cell]) -> str:
    figure = row[0].figure
    return escape(figure.title) + (f"<small>{escape(figure.state)}</small>" if figure.state else "")


def _html_cell(cell: Cell) -> str:
    value = escape(text.measured(cell))
    if cell.value is None:
        return f"<td class=none>{value}</td>"
    if cell.ratio is None:
        return f"<td>{value}</td>"
    kind = "shaky" if not cell.ratio.stable else "good" if cell.ratio.high <= 1.25 else ""
    return f'<td class="{kind}">{value}<span class=ratio>{escape(text.with_interval(cell.ratio))}</span></td>'


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


# -- Markdown ---------------------------------------------------------------------------------------------------------


def _markdown(results: Results) -> str:
    lines = [f"| figure | {' | '.join(results.targets)} |", "|---|" + "---:|" * len(results.targets)]
    for row in summarize(results):
        figure = row[0].figure
        title = f"{figure.title} ({figure.state})" if figure.state else figure.title
        lines.append(f"| {title} | {' | '.join(_markdown_cell(cell) for cell in row)} |")
    lines += ["", *(f"* {line}" for line in notes(results))]
    lines += [f"* {t['label']}: {t['version'] or t['title']}" for t in results.run["targets"]]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: Cell) -> str:
    return f"{text.measured(cell)} {text.compared(cell)}".strip()
