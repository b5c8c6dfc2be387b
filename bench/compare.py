# SPDX-License-Identifier: Apache-2.0
"""Two result files: which figures became slower, by how much, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

from bench.estimate import Change, change, pair_ratios
from bench.results import Results
from bench.workloads.model import Figure

REGRESSION = 3


@dataclass(frozen=True, slots=True)
class Line:
    """The change of one figure of one target."""

    figure: Figure
    target: str
    change: Change


def compare(old: Results, new: Results, *, absolute: bool = False) -> list[Line]:
    """Return the change of each figure and target that both have.

    Unless `absolute`, the ratios to the baseline are compared: a slower machine slows both. The baseline itself is then
    1 by definition and left out.
    """
    lines: list[Line] = []
    for figure in new.figures:
        for target in new.targets:
            before, after = (_slowness(results, figure, target, absolute) for results in (old, new))
            if len(before) >= 3 and len(after) >= 3:
                lines.append(Line(figure, target, change(before, after)))
    return lines


def _slowness(results: Results, figure: Figure, target: str, absolute: bool) -> list[float]:
    """Return values of which smaller is better."""
    values = results.values(figure.name, target)
    if not absolute:
        base = results.values(figure.name, results.baseline) if target != results.baseline else {}
        return pair_ratios(values, base, figure.higher_is_better)
    return [1 / v if figure.higher_is_better else v for v in values.values() if v > 0]


def show(old: Results, new: Results, threshold: float, *, absolute: bool = False) -> int:
    """Print the changes beyond the threshold and return 3 if one is a regression, else 0."""
    lines = compare(old, new, absolute=absolute)
    slower = [line for line in lines if line.change.is_slower(threshold)]
    faster = [line for line in lines if line.change.is_faster(threshold)]
    for word, found in (("slower", slower), ("faster", faster)):
        for line in sorted(found, key=lambda found_line: found_line.change.factor, reverse=word == "slower"):
            print(_text(line, word))
    print(
        f"{len(lines)} figures compared: {len(slower)} slower, {len(faster)} faster, beyond {threshold:.0%}"
    )
    if not lines:
        print(
            "nothing in common: a figure needs three rounds in both files, and a baseline unless --absolute"
        )
    return REGRESSION if slower else 0


def _text(line: Line, word: str) -> str:
    factor = line.change
    span = f"{factor.low:.2f}–{factor.high:.2f}"
    return (
        f"{word}: {line.figure.name} on {line.target}: ×{factor.factor:.2f} (95 %: {span}), "
        f"confidence {factor.confidence:.0%}"
    )
