# SPDX-License-Identifier: Apache-2.0
"""How figures are written: units, ratios with intervals, and `unstable` where a number would pretend."""

from __future__ import annotations

from bench.estimate import Estimate
from bench.results import Cell

PROBLEMS = {
    "unsupported": "n/a",
    "died": "server died",
    "timeout": "timed out",
    "wrong": "wrong result",
    "failed": "failed",
}


def quantity(value: float, unit: str) -> str:
    """Return a value with three digits and a unit of a fitting size."""
    factor, name = _scale(value, unit)
    return f"{_three(value / factor)} {name}"


def span(low: float, high: float, unit: str) -> str:
    """Return `low–high` in one unit."""
    factor, name = _scale(high, unit)
    return f"{_three(low / factor)}–{_three(high / factor)} {name}"


def _scale(value: float, unit: str) -> tuple[float, str]:
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if value >= factor:
                return factor, name
        return 1e-9, "ns"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return factor, prefix + unit
    return 1.0, unit


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def measured(cell: Cell) -> str:
    """Return the value of a cell, its interval when that is all that is known, or the reason why there is none."""
    if cell.value is None:
        return PROBLEMS.get(cell.problem, cell.problem or "–")
    unit = cell.figure.unit
    if cell.value.stable or cell.value.low == cell.value.high:
        return quantity(cell.value.median, unit)
    return span(cell.value.low, cell.value.high, unit)


def compared(cell: Cell) -> str:
    """Return the ratio of a cell; a question mark says that it is unstable, or of fewer than three rounds."""
    if cell.ratio is None:
        return ""
    value = cell.ratio
    if value.stable:
        return f"×{_three(value.median)}"
    if value.low == value.high:
        return f"×{_three(value.median)}?"
    return f"×{_three(value.low)}–{_three(value.high)}?"


def with_interval(value: Estimate) -> str:
    """Return `×1.23 (1.10–1.40)`, or `unstable (…)`."""
    inside = f"{_three(value.low)}–{_three(value.high)}"
    return f"×{_three(value.median)} ({inside})" if value.stable else f"unstable ({inside})"
