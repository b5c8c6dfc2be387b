# SPDX-License-Identifier: Apache-2.0
"""The method proves itself: equal targets come out equal, a slowed one is found, and a broken method is noticed."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.measuring.selftest import Verdict, judge
from bench.report.compare import REGRESSION, compare, show, slower_targets
from bench.results.results import Results, load
from tests.bench.test_program import bench, leftovers, needs_root

RECORDED = Path(__file__).parents[2] / "docs/benchmarks/selftest.jsonl.gz"
FIGURES = 24


def simulate(rng: random.Random, rounds: int, bias: float = 1.0, wobble: float = 0.0) -> Results:
    """Return a run of overlay2, itself again (times `bias`) and 20 % slower, as a busy machine gives them.

    A load that comes and goes slows all of a round by up to 100 %; each value has 2 to 8 % of noise of its own and, one
    time in thirty, a stall. `wobble` makes one round in which `again` differs infect all later ones: no longer
    independent.
    """
    targets = {"overlay2": 1.0, "again": bias, "slow": 1.2}
    run = {
        "baseline": "overlay2",
        "targets": [
            {"label": n, "name": "overlay2", "slowdown": 0.2 if n == "slow" else 0.0} for n in targets
        ],
        "figures": [{"name": f"f{n}", "title": f"f{n}"} for n in range(FIGURES)],
    }
    results = Results(run)
    for figure in range(FIGURES):
        noise = rng.uniform(0.02, 0.08)
        drift = rng.choice((-wobble, wobble))
        for number in range(rounds):
            load_ = 1 + rng.random()
            for target, factor in targets.items():
                value = factor * load_ * rng.lognormvariate(0, noise) * (3 if rng.random() < 1 / 30 else 1)
                value *= 1 + (drift if target == "again" else 0)
                sample = {"record": "sample", "figure": f"f{figure}", "target": target, "round": number}
                results.add(sample | {"value": value, "latency": [], "workload": "w"})
    return results


def verdicts(results: Results) -> dict[str, Verdict]:
    """Return the verdicts by label."""
    return {verdict.label: verdict for verdict in judge(results)}


@pytest.mark.parametrize("rounds", [5, 9, 15])
def test_equal_targets_come_out_equal(rounds: int) -> None:
    """Of a hundred simulated runs of a target against itself at most a few are called unsound: 1 % each by design."""
    rng = random.Random(rounds)
    found = [verdicts(simulate(rng, rounds))["again"] for _ in range(100)]
    assert sum(not verdict.passed for verdict in found) <= 4
    assert sum(verdict.held for verdict in found) / (100 * FIGURES) >= 0.93


def test_slowdown_of_twenty_percent_is_found() -> None:
    """Fifteen rounds find it on nearly every figure of every simulated run, and the intervals contain ×1.20."""
    rng = random.Random(7)
    found = [verdicts(simulate(rng, 15))["slow"] for _ in range(50)]
    assert all(verdict.passed for verdict in found)
    assert sum(verdict.above for verdict in found) >= 0.95 * 50 * FIGURES
    assert sum(verdict.held for verdict in found) >= 0.93 * 50 * FIGURES


@pytest.mark.parametrize(
    "broken",
    [lambda rng: simulate(rng, 15, bias=1.1), lambda rng: simulate(rng, 15, wobble=0.1)],
    ids=["biased", "unfair-by-figure"],
)
def test_broken_method_is_noticed(broken: Callable[[random.Random], Results]) -> None:
    """A method that favours one of two equal targets by 10 %, always or figure by figure, does not pass."""
    rng = random.Random(8)
    assert not any(verdicts(broken(rng))["again"].passed for _ in range(20))


@pytest.mark.skipif(not RECORDED.exists(), reason="no self-test is recorded")
def test_recorded_run_stands() -> None:
    """The self-test that the documentation publishes, judged again: overlay2 is ×1.00 of itself, the slowdown is found."""
    found = verdicts(load(RECORDED))
    assert set(found) == {"again", "slow"}
    assert all(verdict.passed for verdict in found.values()), [v.sentence() for v in found.values()]


def one_label(results: Results, label: str) -> Results:
    """Return the run with the baseline and only the target `label`, called `x`."""
    kept = {"overlay2": "overlay2", label: "x"}
    targets = [t | {"label": kept[t["label"]]} for t in results.run["targets"] if t["label"] in kept]
    part = Results(results.run | {"targets": targets})
    for sample in results.samples:
        if sample["target"] in kept:
            part.add(sample | {"target": kept[sample["target"]]})
    return part


def test_compare_of_recorded_runs_finds_the_slowdown(capsys: pytest.CaptureFixture[str]) -> None:
    """As two runs of one target, before and after it became 20 % slower: a regression as a whole; unchanged: none."""
    recorded = load(RECORDED)
    fast, slow = one_label(recorded, "again"), one_label(recorded, "slow")
    assert show(fast, slow, 0.05) == REGRESSION
    assert "slower as a whole: x: ×1." in capsys.readouterr().out
    assert show(fast, fast, 0.05) == 0 and show(slow, fast, 0.05) == 0


def test_compare_of_equal_simulated_runs_seldom_gives_alarm() -> None:
    """Two independent runs of a target that did not change: a regression in at most 5 % of them, and some luck."""
    rng = random.Random(9)
    alarms = 0
    for _ in range(100):
        old, new = (one_label(simulate(rng, 5), "again") for _ in range(2))
        lines = compare(old, new, 0.05)
        alarms += bool(slower_targets(lines, 0.05)) or any(line.verdict == "slower" for line in lines)
    assert alarms <= 12


@needs_root
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif("UNIONBENCH_SELFTEST" not in os.environ, reason="timing; set UNIONBENCH_SELFTEST=1")
def test_selftest_of_this_machine_stands(tmp_path: Path) -> None:
    """The same, measured now: minutes on a machine that does nothing else."""
    done = bench(
        "selftest", "--backing", "tmpfs", "--directory", tmp_path, "-o", tmp_path / "r.jsonl", limit=880
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not leftovers(tmp_path)
