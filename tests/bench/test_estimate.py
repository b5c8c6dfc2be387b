# SPDX-License-Identifier: Apache-2.0
"""The statistics: values known beforehand, and that they do not promise more than the samples know."""

import math
import random
import statistics
from collections.abc import Callable

import pytest

from bench.results import text
from bench.results.estimate import Estimate, confidence, estimate, pair_ratios
from bench.results.student import adjusted, change, quantile


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


def skewed(rng: random.Random) -> float:
    """Timings of a busy machine: a long tail to one side, and one round in ten is twice as slow. The median is 1.1."""
    value = 0.9 + rng.expovariate(math.log(2) / 0.2)
    return value if rng.random() < 0.9 else 2 * value


def normal(rng: random.Random) -> float:
    """Noise of 10 %."""
    return rng.gauss(1, 0.1)


@pytest.mark.parametrize("draw", [normal, skewed])
@pytest.mark.parametrize("rounds", [3, 5, 6, 7, 9, 15, 30])
def test_estimate_interval_covers_true_median_as_often_as_stated(
    draw: Callable[[random.Random], float], rounds: int
) -> None:
    """Simulated runs, whatever their distribution: the interval holds the true median as often as `confidence` says."""
    rng = random.Random(rounds)
    true = statistics.median(draw(rng) for _ in range(40_000))
    runs = 2000
    hits = 0
    for _ in range(runs):
        found = estimate([draw(rng) for _ in range(rounds)])
        hits += found.low <= true <= found.high
    # Four standard deviations of the simulation itself.
    assert abs(hits / runs - confidence(rounds)) < 4 * math.sqrt(0.25 * 0.25 / runs)


def test_confidence_few_rounds_say_what_they_know() -> None:
    """Five rounds reach 93.75 %, six and more at least 95 %."""
    assert [confidence(n) for n in (2, 3, 5, 6)] == [0.5, 0.75, 0.9375, 0.96875]
    assert all(0.95 <= confidence(n) < 0.99 for n in range(9, 100))


def test_pair_ratios_throughput_and_time_point_the_same_way() -> None:
    """Above one is slower, whether the figure is a time or a speed; rounds without a partner are left out."""
    assert pair_ratios({0: 2.0, 1: 4.0, 2: 9.0}, {0: 1.0, 1: 2.0}, higher_is_better=False) == [2.0, 2.0]
    assert pair_ratios({0: 50.0}, {0: 100.0}, higher_is_better=True) == [2.0]


@pytest.mark.parametrize(
    ("freedom", "t95"), [(1, 12.706), (2, 4.303), (5, 2.571), (8, 2.306), (13, 2.160), (30, 2.042)]
)
def test_quantile_is_that_of_the_printed_tables(freedom: int, t95: float) -> None:
    """Student's t with odd and even degrees of freedom."""
    assert quantile(0.95, freedom) == pytest.approx(t95, abs=0.001)


def test_change_twenty_percent_slower_is_found() -> None:
    """A slowdown of 20 % in five rounds with 3 % noise is beyond 5 % with confidence, and the other way round faster."""
    rng = random.Random(2)
    old = [rng.gauss(1.0, 0.03) for _ in range(5)]
    new = [rng.gauss(1.2, 0.03) for _ in range(5)]
    found = change(old, new, 0.05)
    assert found.factor == pytest.approx(1.2, rel=0.05) and found.p_slower < 0.001
    back = change(new, old, 0.05)
    assert back.p_faster == pytest.approx(found.p_slower) and back.factor == pytest.approx(1 / found.factor)


def test_change_same_values_is_neither() -> None:
    """A run against itself shows nothing."""
    values = [1.0, 1.1, 0.9, 1.05, 0.95]
    found = change(values, values)
    assert found.factor == 1.0 and found.p == 1.0
    assert change([2.0] * 5, [2.0] * 5).p == 1.0


@pytest.mark.parametrize("draw", [normal, skewed])
def test_change_many_equal_figures_seldom_give_alarm(draw: Callable[[random.Random], float]) -> None:
    """Of simulated comparisons of 100 figures that did not change, at most 5 % (and some luck) name one or more."""
    rng = random.Random(4)
    alarms = 0
    for _ in range(200):
        found = [change([draw(rng) for _ in range(5)], [draw(rng) for _ in range(5)]) for _ in range(100)]
        alarms += min(adjusted([each.p for each in found])) <= 0.05
    assert alarms <= 200 * 0.05 + 4 * math.sqrt(200 * 0.05 * 0.95)


def test_change_slow_figures_among_many_are_named() -> None:
    """Ten of a hundred figures are 20 % slower, with 4 % noise and five rounds: nearly all are named, and few others."""
    rng = random.Random(5)
    found = []
    for number in range(100):
        factor = 1.2 if number < 10 else 1.0
        pair = ([factor * rng.gauss(1, 0.04) for _ in range(5)], [rng.gauss(1, 0.04) for _ in range(5)])
        found.append(change(pair[1], pair[0]))
    named = [number for number, chance in enumerate(adjusted([each.p for each in found])) if chance <= 0.05]
    assert sum(number < 10 for number in named) >= 8 and sum(number >= 10 for number in named) <= 2


def test_adjusted_is_benjamini_and_hochberg() -> None:
    """An example worked by hand; the order of the arguments is kept."""
    assert adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert adjusted([]) == []


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
