# SPDX-License-Identifier: Apache-2.0
"""Statistics of one run: the median with a confidence interval, ratios of pairs, and when a figure is too unstable to be one.

Medians, since timings have a long tail on one side. Their interval goes from one sample to another one: the true median
lies below the smallest of n samples when all n fell above it, whatever the distribution, so with probability 2**-n; and so
on for the second smallest by the binomial distribution (the sign test's interval: Conover, Practical Nonparametric
Statistics, 3.2). The confidence is exact and no number of resamples is involved. The bootstrap's percentile interval of a
median also goes from sample to sample, but picks them by a rule that holds for many samples only: with seven it covers the
true median 87.5 times in a hundred, not 95.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95
# A figure whose middle half spreads over more than this part of the median is reported as unstable.
UNSTABLE_SPREAD = 0.30


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


def confidence(count: int) -> float:
    """Return how often the interval of `count` samples holds the true median.

    At least CONFIDENCE from six samples on. Fewer do not know enough: their interval is their range, which holds it
    1 - 2**(1 - count) of the time: 94 % for five.
    """
    return 1 - 2 * _tail(count, _rank(count))


def _tail(count: int, rank: int) -> float:
    """Return the probability that fewer than `rank` of `count` samples lie below the median."""
    return math.ldexp(sum(math.comb(count, k) for k in range(rank)), -count)


@cache
def _rank(count: int) -> int:
    """Return the rank, from 1, of the sample at which the interval begins: the narrowest that has the confidence."""
    rank = 1
    while rank < count // 2 and 1 - 2 * _tail(count, rank + 1) >= CONFIDENCE:
        rank += 1
    return rank


def estimate(values: Sequence[float]) -> Estimate:
    """Return the estimate of at least one value."""
    middle = statistics.median(values)
    if len(values) < 2:
        return Estimate(middle, middle, middle, len(values), math.inf)
    ordered, rank = sorted(values), _rank(len(values))
    quarters = statistics.quantiles(values, n=4, method="inclusive")
    spread = (quarters[2] - quarters[0]) / abs(middle) if middle else 0.0
    return Estimate(middle, ordered[rank - 1], ordered[-rank], len(values), spread)


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


def middle_ratio(ratios: Iterable[float]) -> float:
    """Return the median of ratios, by their logarithms: of two in the middle, ×0.5 and ×2 make ×1."""
    return math.exp(statistics.median(map(math.log, ratios)))
