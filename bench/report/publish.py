# SPDX-License-Identifier: Apache-2.0
"""Publish a result file in the documentation: `python -m bench.report.publish RESULTS [SELFTEST]`, or `make bench-docs`.

Writes the tables between the markers in docs/benchmarks.md, and the page, the pictures and the packed data in docs/benchmarks/.
The same files give the same documentation, byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.measuring.selftest import judge
from bench.report import bars, curveplot, page, plots
from bench.report.terminal import baselines, notes
from bench.report.write import markdown_table, picture
from bench.results import text
from bench.results.estimate import middle_ratio
from bench.results.results import Cell, Results, by_suite, load, summarize
from unionfs.errors import UserError
from unionfs.program import run_command

_DOCS = Path(__file__).parents[2] / "docs"
Groups = list[tuple[str, list[list[Cell]]]]


def publish(results: Path, selftest: Path | None, docs: Path = _DOCS) -> None:
    """Write everything; UserError when a file or a marker is missing."""
    found = load(results)
    document, folder = docs / "benchmarks.md", docs / "benchmarks"
    whole = document.read_text(encoding="utf-8")
    written = fill(whole, found, load(selftest) if selftest else None, document)
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):  # a suite may have gone
        old.unlink()
    (folder / "page.html").write_text(page.html(found), encoding="utf-8")
    _pack(results, folder / "results.jsonl.gz")
    if selftest is not None:
        _pack(selftest, folder / "selftest.jsonl.gz")
    for suite, rows in by_suite(summarize(found)):
        for name, data in _pictures(found, suite, rows):
            (folder / name).write_bytes(data)
    document.write_text(written, encoding="utf-8")


def fill(whole: str, results: Results, selftest: Results | None, document: Path) -> str:
    """Return the document with its tables made new; UserError when a marker is missing."""
    groups = by_suite(summarize(results))
    parts = [_facts(results), *(_overview(results, groups) if len(groups) > 1 else [])]
    for suite, rows in groups:
        parts += _suite(results, suite, rows)
    parts += ["Notes:\n", *(f"* {line}" for line in notes(results)), _versions(results)]
    whole = _replace(whole, "results", "\n".join(parts), document)
    return whole if selftest is None else _replace(whole, "selftest", _selftest(selftest), document)


def _pack(source: Path, target: Path) -> None:
    data = source.read_bytes()
    data = gzip.decompress(data) if source.suffix == ".gz" else data
    target.write_bytes(gzip.compress(data, mtime=0))


def _replace(whole: str, name: str, content: str, document: Path) -> str:
    start, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    before, first, rest = whole.partition(start)
    _, second, after = rest.partition(end)
    if not first or not second:
        raise UserError(f"{document}: the marker {start} or {end} is missing")
    return f"{before}{start}\n{content.strip()}\n{end}{after}"


def _facts(results: Results) -> str:
    facts = results.run["environment"]
    end = results.end or {"load": [math.nan], "seconds": math.nan}
    machine = [
        str(facts["date"])[:10], f"commit {facts.get('git') or 'unknown'}", str(facts.get("system", "Linux")),
        f"kernel {facts['kernel']}", f"{facts['cpus']} processors ({facts['virtual']}, {facts.get('cpu', 'unknown')})",
        f"{facts.get('memory', 0) / (1 << 30):.0f} GiB", f"Python {facts.get('python', '')}", str(facts.get("fio", "")),
    ]  # fmt: skip
    run = (
        f"`{results.run['command']}`: {results.rounds} rounds in {end['seconds'] / 60:.0f} minutes, branches on "
        f"{facts['backing']}, load {facts['load'][0]:.1f} at the start and {end['load'][0]:.1f} at the end. "
        "Published as measured."
    )
    links = (
        "The whole page, with intervals, latencies and curves: [page.html](benchmarks/page.html) (to be opened in a "
        "browser); its data: [results.jsonl.gz](benchmarks/results.jsonl.gz)."
    )
    return f"{', '.join(word for word in machine if word)}. {run}\n\n{links}\n"


def _overview(results: Results, groups: Groups) -> list[str]:
    """Return the middle ratio of each suite and target."""
    ratios = {
        (suite, cell.target): [
            c.ratio.median for row in rows for c in row if c.ratio and c.target == cell.target
        ]
        for suite, rows in groups
        for cell in rows[0]
    }
    names = [n for n in results.targets if any(ratios.get((suite, n)) for suite, _ in groups)]
    lines = [f"| the middle figure of a suite | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for suite, _ in groups:
        cells = (_middle(ratios.get((suite, name), [])) for name in names)
        if any(ratios.get((suite, name)) for name in names):
            lines.append(f"| [{suite}](#{suite}) | {' | '.join(cells)} |")
    return [*lines, f"\nTimes as slow as {baselines(results)}. For orientation; the figures follow.\n"]


def _middle(ratios: Sequence[float]) -> str:
    return f"×{text.three(middle_ratio(ratios))}" if ratios else "–"


def _has_ratios(rows: list[list[Cell]]) -> bool:
    return any(cell.ratio for row in rows for cell in row)


def _suite(results: Results, suite: str, rows: list[list[Cell]]) -> list[str]:
    name = suite or "figures"
    parts = [f"### {suite}\n"] if suite else []
    parts += [f"![{bar}](benchmarks/bars-{bar}.png)\n" for bar in bars.groups(rows)]
    if _has_ratios(rows):
        parts.append(f"![ratios of the suite {name}](benchmarks/ratios-{name}.png)\n")
    if curveplot.by_curve(rows):
        parts.append(f"![scaling curves of the suite {name}](benchmarks/curves-{name}.png)\n")
    inside = markdown_table(results, rows)
    return [
        *parts,
        f"<details><summary>values and ratios</summary>\n\n{inside}\n</details>\n" if suite else inside,
    ]


def _pictures(results: Results, suite: str, rows: list[list[Cell]]) -> Iterator[tuple[str, bytes]]:
    name = suite or "figures"
    for bar, drawing in bars.pictures(results, rows):
        yield f"bars-{bar}.png", plots.png(drawing)
    if _has_ratios(rows):
        yield f"ratios-{name}.png", picture(results, rows)
    curves = curveplot.sheet(results, rows)
    if curves is not None:
        yield f"curves-{name}.png", plots.png(curves)


def _versions(results: Results) -> str:
    return "\n".join(f"* {t['label']}: {t['version'] or t['title']}" for t in results.run["targets"])


def _selftest(results: Results) -> str:
    facts = results.run["environment"]
    verdicts = "\n".join(f"* {verdict.sentence()}." for verdict in judge(results))
    about = f"{str(facts['date'])[:10]}, {results.rounds} rounds on {facts['backing']}, load {facts['load'][0]:.1f} at the start:"
    table = markdown_table(results, summarize(results))
    return f"{about}\n\n{verdicts}\n\n<details><summary>figures of the self-test</summary>\n\n{table}\n</details>"


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report.publish", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("selftest", type=Path, nargs="?", help="results of: unionbench selftest")
    options = parser.parse_args()

    def run() -> int:
        publish(options.results, options.selftest)
        return 0

    return run_command("bench.report.publish", run)


if __name__ == "__main__":
    raise SystemExit(main())
