# SPDX-License-Identifier: Apache-2.0
"""Result files: JSON Lines, appended as measured, so that an interrupted run keeps what is done.

Line 1 is a `run` record (format version, environment, plan, figures, targets), then `sample` and `failure` records in the
order measured, then one `end`. A file without `end` was interrupted; a torn last line is left out. A name that ends in .gz
is read unpacked.

Format versions: 1 (first; later fields of it are optional: a figure's `suite`, the run's `baselines` by suite,
a target's `baseline`, a sample's `took` in seconds).
"""

from __future__ import annotations

import gzip
import json
import statistics
import zlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

from bench.machine.client import Sample
from bench.results.estimate import Estimate, estimate, pair_ratios
from bench.workloads.model import Figure
from unionfs.errors import UserError

FORMAT = 1
_FEW_ROWS = 24
Record = dict[str, Any]  # Any: one JSON object


class Recorder:
    """Writes one result file; every record reaches the file at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, kind: str, /, **fields: Any) -> Record:
        """Append one record."""
        record = {"record": kind, **fields}
        try:
            self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._stream.flush()
        except OSError as error:
            hint = "what was written until then is kept"
            raise UserError(f"{self._stream.name}: {error.strerror}", hint) from None
        return record

    def sample(self, place: Record, figure: str, sample: Sample) -> Record:
        """Append a sample; `place` says round, workload, target, time and load."""
        values = asdict(sample)
        values["latency"] = [round(v, 9) for v in sample.latency]
        return self.write("sample", **place, figure=figure, **values)


@dataclass(slots=True)
class Results:
    """A result file in memory."""

    run: Record
    samples: list[Record] = field(default_factory=list)
    failures: list[Record] = field(default_factory=list)
    end: Record | None = None
    _values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take in one record; kinds of later versions are passed over."""
        if record["record"] == "sample":
            self.samples.append(record)
            rounds = self._values.setdefault((record["figure"], record["target"]), {})
            rounds[record["round"]] = record["value"]
        elif record["record"] == "failure":
            self.failures.append(record)
        elif record["record"] == "end":
            self.end = record

    @property
    def figures(self) -> list[Figure]:
        """Return all figures, in the order of the plan."""
        known = [f.name for f in fields(Figure)]
        return [Figure(**{name: f[name] for name in known if name in f}) for f in self.run["figures"]]

    @property
    def targets(self) -> list[str]:
        """Return the labels of the targets, in the order of the plan."""
        return [target["label"] for target in self.run["targets"]]

    @property
    def baseline(self) -> str:
        """Return the label that the ratios are relative to, or nothing."""
        return str(self.run["baseline"])

    def baseline_of(self, figure: Figure, target: str) -> str:
        """Return the label that a target's ratios are relative to: a suite or a target may have a baseline of its own."""
        suite = self.run.get("baselines", {}).get(figure.suite)
        own = next((t.get("baseline") for t in self.run["targets"] if t["label"] == target), None)
        return str(suite or own or self.baseline)

    def of_suites(self, names: str | None) -> Results:
        """Return the same run with the figures of some suites only, `SUITE,…`; UserError when one is not in it."""
        if names is None:
            return self
        known = dict.fromkeys(figure.suite for figure in self.figures)
        for name in names.split(","):
            if name not in known:
                raise UserError(
                    f"suite {name!r} is not in these results", f"there: {', '.join(known)}", status=2
                )
        figures = [f for f in self.run["figures"] if f.get("suite", "") in names.split(",")]
        kept = {f["name"] for f in figures}
        part = Results(self.run | {"figures": figures}, end=self.end)
        for record in (*self.samples, *self.failures):
            if record["record"] == "sample" and record["figure"] not in kept:
                continue
            part.add(record)
        return part

    @property
    def rounds(self) -> int:
        """Return the number of rounds that have a sample."""
        return len({sample["round"] for sample in self.samples})

    def values(self, figure: str, target: str) -> dict[int, float]:
        """Return the values of a figure by round."""
        return self._values.get((figure, target), {})


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one target: its estimate, its ratio to `baseline` (above 1 is slower), or why there is none."""

    figure: Figure
    target: str
    value: Estimate | None
    ratio: Estimate | None
    problem: str = ""
    baseline: str = ""


def summarize(results: Results) -> list[list[Cell]]:
    """Return a row for each figure with something to show, a cell for each target."""
    rows = [[_cell(results, figure, target) for target in results.targets] for figure in results.figures]
    return [row for row in rows if any(cell.value for cell in row) or any(cell.problem for cell in row)]


def cells(results: Results) -> list[Record]:
    """Return what the table shows as records, for programs; a value or ratio that is not stable is its interval only."""
    return [
        {
            "figure": cell.figure.name, "suite": cell.figure.suite, "target": cell.target, "unit": cell.figure.unit,
            "value": _numbers(cell.value), "baseline": cell.baseline, "slowness": _numbers(cell.ratio), "problem": cell.problem,
        }
        for row in summarize(results)
        for cell in row
        if cell.value or cell.problem
    ]  # fmt: skip


def _numbers(found: Estimate | None) -> Record | None:
    if found is None:
        return None
    median = found.median if found.stable else None
    return {
        "median": median,
        "low": found.low,
        "high": found.high,
        "rounds": found.count,
        "stable": found.stable,
    }


def latency_quantiles(results: Results) -> dict[tuple[str, str], list[float]]:
    """Return, by figure and target, the QUANTILES of the latencies in seconds: the median of the rounds."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for sample in results.samples:
        if sample["latency"]:
            found.setdefault((sample["figure"], sample["target"]), []).append(sample["latency"])
    return {
        key: [statistics.median(level) for level in zip(*all_, strict=True)] for key, all_ in found.items()
    }


def by_suite(rows: list[list[Cell]]) -> list[tuple[str, list[list[Cell]]]]:
    """Return the rows by suite, in the order of the plan; few rows stay together, under no name."""
    if len(rows) <= _FEW_ROWS and len({row[0].figure.kind for row in rows}) < 2:
        return [("", rows)]
    groups: dict[str, list[list[Cell]]] = {}
    for row in rows:
        groups.setdefault(row[0].figure.suite, []).append(row)
    return list(groups.items())


def _cell(results: Results, figure: Figure, target: str) -> Cell:
    values = results.values(figure.name, target)
    if not values:
        return Cell(figure, target, None, None, _problem(results, figure, target))
    ratios: list[float] = []
    baseline = results.baseline_of(figure, target)
    if target != baseline:
        ratios = pair_ratios(values, results.values(figure.name, baseline), figure.higher_is_better)
    value = estimate(list(values.values()))
    return Cell(figure, target, value, estimate(ratios) if ratios else None, baseline=baseline)


def _problem(results: Results, figure: Figure, target: str) -> str:
    for failure in results.failures:
        if failure["target"] == target and figure.name in failure["figures"]:
            return str(failure["kind"])
    return ""


def load(path: Path) -> Results:
    """Read a result file; UserError in one line when it is none, damaged, or of another format version."""
    records = _records(path, _read(path))
    if not records or records[0].get("record") != "run":
        raise UserError(f"{path}: not a result file of unionbench", status=2)
    if records[0].get("format") != FORMAT:
        raise UserError(
            f"{path}: result format {records[0].get('format')}, this program reads {FORMAT}",
            "measure again, or use the version that wrote it", status=2,
        )  # fmt: skip
    results = Results(records[0])
    try:
        for record in records[1:]:
            results.add(record)
        _check_complete(results)
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: damaged: a record lacks {error}", _DAMAGED, status=2) from None
    return results


_DAMAGED = "measure again, or take an undamaged copy"


def _read(path: Path) -> list[str]:
    try:
        if path.is_char_device():  # /dev/zero has no end
            raise UserError(f"{path}: not a result file of unionbench", status=2)
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode().rstrip("\n").split("\n")
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: not a text file, or damaged", status=2) from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", status=2) from None


def _harmless(line: str) -> Any:
    """Return the value of a line of JSON; what would control a terminal in its texts is escaped, files come from anywhere."""
    value = json.loads(line)
    return value if line.isprintable() and "\\u" not in line else _escaped(value)


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def _records(path: Path, lines: list[str]) -> list[Record]:
    """Read the lines; only the last one may be torn, by a kill."""
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            record = _harmless(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and "record" in record:
            records.append(record)
        elif records and number < len(lines):
            raise UserError(f"{path}: line {number} is damaged", _DAMAGED, status=2)
    return records


def _check_complete(results: Results) -> None:
    """KeyError, TypeError or IndexError unless what every reader needs is there."""
    _ = results.figures, results.targets, results.baseline, results.run["rounds"], results.run["command"]
    for name in ("date", "kernel", "cpus", "virtual", "backing", "busy"):
        _ = results.run["environment"][name]
    _ = results.run["environment"]["load"][0]
    _ = [t["version"] + t["title"] + t["name"] for t in results.run["targets"]]
    _ = [(f["target"], f["kind"], f["message"], f["figures"]) for f in results.failures]
    _ = [(s["latency"], s["workload"], float(s["value"])) for s in results.samples]
    _ = results.end and (results.end["reason"], results.end["seconds"], results.end["load"])
