# SPDX-License-Identifier: Apache-2.0
"""The statistics: values known beforehand, and that they do not promise more than the samples know."""

import math
import random

import pytest

from bench import text
from bench.estimate import Estimate, change, estimate, pair_ratios


def test_estimate_equal_values_interval_is_the_value() -> None:
    """Values without spread give a point."""
    found = estimate([2.0] * 5)
    assert (found.median, found.low, found.high, found.spread) == (2.0, 2.0, 2.0, 0.0)
    assert found.stable


def test_estimate_outlier_does_not_move_median() -> None:
    """One stall in five rounds leaves the median where it is."""
    found = estimate([1.0, 1.01, 0.99, 1.02, 50.0])
    assert found.median == 1.01
    assert found.low <= 1.0 and found.high == 50.0


def test_estimate_wide_spread_is_unstable() -> None:
    """Half of the values far from the median: no number."""
    assert not estimate([1.0, 2.0, 3.0, 4.0, 5.0]).stable


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0]], ids=["one", "two"])
def test_estimate_few_rounds_is_unstable(values: list[float]) -> None:
    """One or two rounds cannot show their spread."""
    assert not estimate(values).stable


def test_estimate_interval_covers_true_median() -> None:
    """Nine rounds of a skewed distribution: the 95 % interval holds the true median about as often as it says."""
    rng = random.Random(1)
    hits = 0
    for _ in range(200):
        found = estimate([rng.lognormvariate(0, 0.3) for _ in range(9)])
        hits += found.low <= 1.0 <= found.high
    assert hits >= 180


def test_pair_ratios_throughput_and_time_point_the_same_way() -> None:
    """Above one is slower, whether the figure is a time or a speed; rounds without a partner are left out."""
    assert pair_ratios({0: 2.0, 1: 4.0, 2: 9.0}, {0: 1.0, 1: 2.0}, higher_is_better=False) == [2.0, 2.0]
    assert pair_ratios({0: 50.0}, {0: 100.0}, higher_is_better=True) == [2.0]


def test_change_twenty_percent_slower_is_found() -> None:
    """A slowdown of 20 % in five rounds with 3 % noise is a regression beyond 5 %, with confidence."""
    rng = random.Random(2)
    old = [rng.gauss(1.0, 0.03) for _ in range(5)]
    new = [rng.gauss(1.2, 0.03) for _ in range(5)]
    found = change(old, new)
    assert found.is_slower(0.05) and found.confidence > 0.95
    assert change(new, old).is_faster(0.05)


def test_change_same_values_is_neither() -> None:
    """A run against itself shows nothing."""
    values = [1.0, 1.1, 0.9, 1.05, 0.95]
    found = change(values, values)
    assert found.factor == 1.0
    assert not found.is_slower(0.0) and not found.is_faster(0.0)


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (1.234, "s", "1.23 s"),
        (0.0123, "s", "12.3 ms"),
        (57e-6, "s", "57.0 µs"),
        (3e-9, "s", "3.00 ns"),
        (6.2e9, "B/s", "6.20 GB/s"),
        (5.0, "op/s", "5.00 op/s"),
    ],
)
def test_quantity_has_three_digits_and_fitting_unit(value: float, unit: str, written: str) -> None:
    """People read three digits and one unit."""
    assert text.quantity(value, unit) == written


def test_with_interval_unstable_shows_no_number() -> None:
    """An unstable ratio is its interval only."""
    assert text.with_interval(Estimate(2.0, 1.0, 4.0, 5, 0.9)) == "unstable (1.00–4.00)"
    assert text.with_interval(Estimate(2.0, 1.9, 2.1, 5, 0.05)) == "×2.00 (1.90–2.10)"
    assert not Estimate(1.0, 1.0, 1.0, 1, math.inf).stable
