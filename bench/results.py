# SPDX-License-Identifier: Apache-2.0
"""Result files: JSON Lines, appended as measured, so that an interrupted run keeps what is done.

Line 1 is a `run` record (format version, environment, plan, figures, targets), then `sample` and `failure` records in the
order measured, then one `end`. A file without `end` was interrupted; a torn last line is left out.

Format versions: 1 (first).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from bench.client import Sample
from bench.estimate import Estimate, estimate, pair_ratios
from bench.workloads.model import Figure
from unionfs.errors import UserError

FORMAT = 1
Record = dict[str, Any]  # Any: one JSON object


class Recorder:
    """Writes one result file; every record reaches the file at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, kind: str, /, **fields: Any) -> Record:
        """Append one record."""
        record = {"record": kind, **fields}
        self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._stream.flush()
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

    def add(self, record: Record) -> None:
        """Take in one record; kinds of later versions are passed over."""
        if record["record"] == "sample":
            self.samples.append(record)
        elif record["record"] == "failure":
            self.failures.append(record)
        elif record["record"] == "end":
            self.end = record

    @property
    def figures(self) -> list[Figure]:
        """Return the figures that have a sample or a failure, in the order of the plan."""
        return [Figure(**figure) for figure in self.run["figures"]]

    @property
    def targets(self) -> list[str]:
        """Return the labels of the targets, in the order of the plan."""
        return [target["label"] for target in self.run["targets"]]

    @property
    def baseline(self) -> str:
        """Return the label that the ratios are relative to, or nothing."""
        return str(self.run["baseline"])

    def values(self, figure: str, target: str) -> dict[int, float]:
        """Return the values of a figure by round."""
        return {
            s["round"]: s["value"] for s in self.samples if s["figure"] == figure and s["target"] == target
        }


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one target: its estimate, its ratio to the baseline (above 1 is slower), or why there is none."""

    figure: Figure
    target: str
    value: Estimate | None
    ratio: Estimate | None
    problem: str = ""


def summarize(results: Results) -> list[list[Cell]]:
    """Return a row for each figure with something to show, a cell for each target."""
    rows = [[_cell(results, figure, target) for target in results.targets] for figure in results.figures]
    return [row for row in rows if any(cell.value for cell in row) or any(cell.problem for cell in row)]


def _cell(results: Results, figure: Figure, target: str) -> Cell:
    values = results.values(figure.name, target)
    if not values:
        return Cell(figure, target, None, None, _problem(results, figure, target))
    ratios: list[float] = []
    if target != results.baseline:
        ratios = pair_ratios(values, results.values(figure.name, results.baseline), figure.higher_is_better)
    value = estimate(list(values.values()))
    return Cell(figure, target, value, estimate(ratios) if ratios else None)


def _problem(results: Results, figure: Figure, target: str) -> str:
    for failure in results.failures:
        if failure["target"] == target and figure.name in failure["figures"]:
            return str(failure["kind"])
    return ""


def load(path: Path) -> Results:
    """Read a result file; UserError in one line when it is none, or of another format version."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: {getattr(error, 'strerror', None) or 'not a text file'}", status=2
        ) from None
    records = list(_records(lines))
    if not records or records[0].get("record") != "run":
        raise UserError(f"{path}: not a result file of unionbench", status=2)
    if records[0].get("format") != FORMAT:
        raise UserError(
            f"{path}: result format {records[0].get('format')}, this program reads {FORMAT}",
            "measure again, or use the version that wrote it", status=2,
        )  # fmt: skip
    results = Results(records[0])
    for record in records[1:]:
        results.add(record)
    return results


def _records(lines: Iterable[str]) -> Iterable[Record]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            return  # torn by a kill
        if not isinstance(record, dict) or "record" not in record:
            return
        yield record
