# SPDX-License-Identifier: Apache-2.0
"""Two sets of timings: by what factor they differ, and how sure that is. Student's t on logarithms; many tests at once.

Logarithms, since noise multiplies: they turn factors into differences and make long tails short. The t test rather than a
test of ranks, since five rounds against five cannot make ranks surer than 99.2 %, too little to name one figure among
hundreds. Outliers make it careful (a wide interval), not wrong; tests/bench/test_estimate.py simulates that.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Change:
    """How a figure changed: a factor (above 1 is slower) with its 95 % interval.

    `p_slower` is the probability of seeing this much by chance when it is at most `threshold` slower, `p_faster`
    likewise.
    """

    factor: float
    low: float
    high: float
    p_slower: float
    p_faster: float

    @property
    def p(self) -> float:
        """Return the two-sided probability."""
        return min(1.0, 2 * min(self.p_slower, self.p_faster))


def change(old: Sequence[float], new: Sequence[float], threshold: float = 0.0) -> Change:
    """Compare two sets of at least two positive values each, of which smaller is better; they need not be paired."""
    before, after = [math.log(v) for v in old], [math.log(v) for v in new]
    difference = statistics.fmean(after) - statistics.fmean(before)
    freedom = len(before) + len(after) - 2
    squares = sum((v - statistics.fmean(side)) ** 2 for side in (before, after) for v in side)
    error = math.sqrt(squares / freedom * (1 / len(before) + 1 / len(after)))
    margin, edge = quantile(CONFIDENCE, freedom) * error, math.log1p(threshold)
    return Change(
        math.exp(difference), math.exp(difference - margin), math.exp(difference + margin),
        _above(difference - edge, error, freedom), _above(-difference - edge, error, freedom),
    )  # fmt: skip


def _above(distance: float, error: float, freedom: int) -> float:
    """Return the probability that chance alone gives at least `distance`."""
    if error < 1e-12:  # values without noise
        return 0.0 if distance > 1e-12 else 1.0
    half = (1 - within(abs(distance) / error, freedom)) / 2
    return half if distance > 0 else 1 - half


def within(t: float, freedom: int) -> float:
    """Return the probability that Student's t lies between -t and t (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    if freedom % 2:
        term, total = math.cos(angle), 0.0
        for k in range(3, freedom + 1, 2):
            total += term
            term *= square * (k - 1) / k
        return min(1.0, 2 / math.pi * (angle + sine * total))
    term, total = 1.0, 0.0
    for k in range(2, freedom + 1, 2):
        total += term
        term *= square * (k - 1) / k
    return min(1.0, sine * total)


def quantile(confidence: float, freedom: int) -> float:
    """Return the t between whose negative and positive value lies `confidence`."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < confidence else (low, middle)
    return high


def adjusted(probabilities: Sequence[float]) -> list[float]:
    """Return the probabilities corrected for being many (Benjamini and Hochberg 1995).

    Of the tests whose corrected probability is at most 5 %, 5 % are expected to be chance; when nothing differs, one
    such test or more comes up in at most 5 % of the runs.
    """
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i], reverse=True)
    found = [1.0] * len(probabilities)
    least = 1.0
    for rank, index in zip(range(len(order), 0, -1), order, strict=True):
        least = min(least, probabilities[index] * len(order) / rank)
        found[index] = least
    return found
