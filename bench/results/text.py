# SPDX-License-Identifier: Apache-2.0
"""How figures are written: units, ratios with intervals, and `unstable` where a number would pretend."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from bench.results.estimate import UNSTABLE_SPREAD, Estimate, confidence
from bench.results.results import Cell

Writer = Callable[[float], str]
PROBLEMS = {
    "unsupported": "n/a",
    "died": "server died",
    "timeout": "timed out",
    "wrong": "wrong result",
    "failed": "failed",
    "missing": "not here",
}


def quantity(value: float, unit: str) -> str:
    """Return a value with three digits and a unit of a fitting size."""
    factor, name = _scale(value, unit)
    return f"{three(value / factor)} {name}"


def short_quantity(value: float, unit: str) -> str:
    """Return a round value, for a tick of an axis: `10 µs`."""
    return re.sub(r"\.0+(?= )|(?<=\.\d)0(?= )", "", quantity(value, unit))


def binary_size(value: float) -> str:
    """Return a size in bytes, for a tick of an axis: `64 KiB`."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g} B"


def span(low: float, high: float, unit: str) -> str:
    """Return `low–high` in one unit."""
    factor, name = _scale(high, unit)
    return f"{three(low / factor)}–{three(high / factor)} {name}"


def _scale(value: float, unit: str) -> tuple[float, str]:
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if value >= factor:
                return factor, name
        return 1e-9, "ns"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return factor, f"{prefix} {unit}" if unit == "op/s" else prefix + unit
    return 1.0, unit


def three(value: float) -> str:
    """Return a number with three digits."""
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
        return f"×{three(value.median)}"
    if value.low == value.high:
        return f"×{three(value.median)}?"
    return f"×{three(value.low)}–{three(value.high)}?"


def with_interval(value: Estimate) -> str:
    """Return `×1.23 (1.10–1.40)`, or `unstable (…)`."""
    inside = f"{three(value.low)}–{three(value.high)}"
    return f"×{three(value.median)} ({inside})" if value.stable else f"unstable ({inside})"


def bounds(value: Estimate) -> str:
    """Return the interval of a ratio."""
    return f"{three(value.low)}–{three(value.high)}"


def heat(ratio: float, interval: Estimate | None = None) -> str:
    """Return the class of colour for a ratio: f1, f2 faster, s1 to s4 slower; none when its interval holds 1."""
    if interval is not None and interval.low <= 1 <= interval.high:
        return ""
    if ratio < 1:
        return "f2" if ratio < 0.67 else "f1"
    return "s1" if ratio < 1.5 else "s2" if ratio < 3 else "s3" if ratio < 10 else "s4"


_METHOD = """\
Each round mounts all targets anew over the same read-only layers and measures them one after the other, in a new process \
each; the order moves on by one from round to round.
Every workload checks what it read, listed or wrote, through the mount and in the branch behind it; a wrong answer is a \
failure, not a time.
×N is how many times as slow as {baselines} a target is, for times and speeds alike: the median of the ratios within each \
round, where both were measured seconds apart.
Intervals go from order statistic to order statistic, which holds for any distribution. They contain the true median with \
a confidence of {confidences}.
Unstable (marked ?, hollow in pictures): the middle half of the values spreads over more than {spread:.0f} % of their median, \
or there are fewer than three rounds. Then only the interval is given.
Hundreds of intervals are shown: a few of them miss by chance. Compare runs with `unionbench compare`, which corrects for that.
"""


def method(rounds: Iterable[int], baselines: str) -> list[str]:
    """Return how figures come about, a paragraph each; `rounds` are the numbers of rounds that figures have."""
    counts = sorted({count for count in rounds if count > 1}, reverse=True)
    sure = (
        f"{confidence(count):.1%} over {count} rounds".replace("%", " %").replace(".0", "")
        for count in counts
    )
    said = ", ".join(sure) or "nothing, over one round"
    return _METHOD.format(baselines=baselines, confidences=said, spread=100 * UNSTABLE_SPREAD).splitlines()


def rounds(count: int) -> str:
    """Return a number of rounds in words."""
    return f"{count} interleaved round{'' if count == 1 else 's'}"
