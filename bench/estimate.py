# SPDX-License-Identifier: Apache-2.0
"""Statistics: median with a bootstrap confidence interval, ratios of pairs, and when a figure is too unstable to be one.

Medians, since timings have a long tail on one side; the bootstrap, since nothing is known of their distribution
(Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13). With five rounds the interval is nearly the range of
the samples, which is honest: five samples do not know more.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
# A figure whose middle half spreads over more than this part of the median is reported as unstable.
UNSTABLE_SPREAD = 0.30
_RESAMPLES = 1000
_SEED = 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median with its confidence interval; `spread` is the interquartile range divided by the median."""

    median: float
    low: float
    high: float
    count: int
    spread: float

    @property
    def stable(self) -> bool:
        """Tell whether the median may be shown as a number."""
        return self.count >= 3 and self.spread <= UNSTABLE_SPREAD


def resampled_medians(values: Sequence[float], rng: random.Random) -> list[float]:
    """Return the medians of random samples drawn from `values` with replacement."""
    size = len(values)
    return [statistics.median(rng.choices(values, k=size)) for _ in range(_RESAMPLES)]


def interval(medians: Sequence[float]) -> tuple[float, float]:
    """Return the central part of resampled medians that holds the confidence."""
    ordered = sorted(medians)
    tail = (1 - CONFIDENCE) / 2
    return ordered[math.floor(tail * len(ordered))], ordered[math.ceil((1 - tail) * len(ordered)) - 1]


def estimate(values: Sequence[float]) -> Estimate:
    """Return the estimate of at least one value."""
    middle = statistics.median(values)
    if len(values) < 2:
        return Estimate(middle, middle, middle, len(values), math.inf)
    low, high = interval(resampled_medians(values, random.Random(_SEED)))
    quarters = statistics.quantiles(values, n=4, method="inclusive")
    spread = (quarters[2] - quarters[0]) / abs(middle) if middle else 0.0
    return Estimate(middle, low, high, len(values), spread)


def pair_ratios(
    values: Mapping[int, float], baseline: Mapping[int, float], higher_is_better: bool
) -> list[float]:
    """Return, round by round, how many times slower `values` are than `baseline`: 2.0 takes twice as long.

    Only rounds that both have; a pair was measured within seconds of each other, so that a load that comes and goes
    hits both.
    """
    pairs = [(values[number], baseline[number]) for number in sorted(values.keys() & baseline.keys())]
    if higher_is_better:
        pairs = [(b, a) for a, b in pairs]
    return [a / b for a, b in pairs if a > 0 and b > 0]


@dataclass(frozen=True, slots=True)
class Change:
    """How a figure changed between two runs: a factor (above 1 is slower) and how sure that it is above (or below) 1."""

    factor: float
    low: float
    high: float
    confidence: float

    def is_slower(self, threshold: float) -> bool:
        """Tell whether the whole interval lies above 1 + threshold."""
        return self.low > 1 + threshold

    def is_faster(self, threshold: float) -> bool:
        """Tell whether the whole interval lies below 1 / (1 + threshold)."""
        return self.high < 1 / (1 + threshold)


def change(old: Sequence[float], new: Sequence[float]) -> Change:
    """Compare two sets of values of which smaller is better; they need not be paired."""
    rng = random.Random(_SEED)
    before, after = resampled_medians(old, rng), resampled_medians(new, rng)
    factors = [b / a for a, b in zip(before, after, strict=True)]
    low, high = interval(factors)
    factor = statistics.median(new) / statistics.median(old)
    slower = sum(f > 1 for f in factors) / len(factors)
    return Change(factor, low, high, slower if factor >= 1 else sum(f < 1 for f in factors) / len(factors))
