# SPDX-License-Identifier: Apache-2.0
"""Two result files: which figures became slower or fail now, by how much, and how sure that is."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass

from bench.report import terminal
from bench.results import text
from bench.results.estimate import pair_ratios
from bench.results.results import Record, Results, summarize
from bench.results.student import Change, adjusted, change
from bench.workloads.model import Figure
from unionfs.errors import UserError

REGRESSION = 3
_CHANCE = 0.05
_ENVIRONMENT = ("kernel", "cpu", "cpus", "backing", "virtual", "fio")


@dataclass(frozen=True, slots=True)
class Line:
    """The change of one figure of one target; `chance` is corrected for the number of figures compared."""

    figure: Figure
    target: str
    change: Change
    chance: float

    @property
    def verdict(self) -> str:
        """Return slower or faster when that is sure, perhaps slower or faster when only a single test says so, or same."""
        word = "slower" if self.change.p_slower < self.change.p_faster else "faster"
        if self.chance <= _CHANCE:
            return word
        return f"perhaps {word}" if self.change.p <= _CHANCE else "same"

    def record(self) -> Record:
        """Return it for programs."""
        found = self.change
        return {
            "figure": self.figure.name, "target": self.target, "verdict": self.verdict, "factor": found.factor,
            "low": found.low, "high": found.high, "confidence": 1 - self.chance,
        }  # fmt: skip


def compare(old: Results, new: Results, threshold: float = 0.0, *, absolute: bool = False) -> list[Line]:
    """Return the change of each figure and target that both have in three rounds or more, the surest first.

    Unless `absolute`, the ratios to the baseline are compared: a slower machine slows both. The baseline itself is then
    1 by definition and left out.
    """
    found: list[tuple[Figure, str, Change]] = []
    for figure in new.figures:
        for target in new.targets:
            before, after = (_slowness(results, figure, target, absolute) for results in (old, new))
            if len(before) >= 3 and len(after) >= 3:
                found.append((figure, target, change(before, after, threshold)))
    chances = adjusted([change.p for _, _, change in found])
    lines = [Line(*each, chance) for each, chance in zip(found, chances, strict=True)]
    return sorted(lines, key=lambda line: (line.chance, -line.change.factor))


@dataclass(frozen=True, slots=True)
class Whole:
    """A target of which most figures became slower: `slower` of `count`, the middle one by `factor`."""

    target: str
    factor: float
    slower: int
    count: int
    chance: float


def slower_targets(lines: list[Line], threshold: float) -> list[Whole]:
    """Return the targets that became slower as a whole, which noise may hide in each figure alone.

    A sign test over the figures: were the target the same, each would be slower or faster by a toss. The probability is
    corrected for the number of targets (Bonferroni).
    """
    targets: dict[str, list[float]] = {}
    for line in lines:
        targets.setdefault(line.target, []).append(line.change.factor)
    found: list[Whole] = []
    for target, factors in targets.items():
        count, slower = len(factors), sum(factor > 1 + threshold for factor in factors)
        chance = len(targets) * sum(math.comb(count, k) for k in range(slower, count + 1)) / 2**count
        if chance <= _CHANCE:
            found.append(Whole(target, statistics.median(factors), slower, count, chance))
    return found


def _slowness(results: Results, figure: Figure, target: str, absolute: bool) -> list[float]:
    """Return values of which smaller is better."""
    values = results.values(figure.name, target)
    if not absolute:
        baseline = results.baseline_of(figure, target)
        base = results.values(figure.name, baseline) if target != baseline else {}
        return pair_ratios(values, base, figure.higher_is_better)
    return [1 / v if figure.higher_is_better else v for v in values.values() if v > 0]


def new_failures(old: Results, new: Results) -> list[Record]:
    """Return the figures that had a value on a target and fail there now."""
    had = {(cell.figure.name, cell.target) for row in summarize(old) for cell in row if cell.value}
    return [
        {"figure": cell.figure.name, "target": cell.target, "verdict": "fails", "problem": cell.problem}
        for row in summarize(new)
        for cell in row
        if cell.value is None and cell.problem and (cell.figure.name, cell.target) in had
    ]


def differences(old: Results, new: Results) -> list[str]:
    """Return what differs between the environments of two runs, a line each."""
    one, other = old.run["environment"], new.run["environment"]
    return [
        f"{key} differs: {one.get(key)} before, {other.get(key)} now"
        for key in _ENVIRONMENT
        if one.get(key) != other.get(key)
    ]


def show(
    old: Results, new: Results, threshold: float, *, absolute: bool = False, as_json: bool = False
) -> int:
    """Print what changed by more than the threshold; return 3 if something became slower or fails now, else 0."""
    lines = compare(old, new, threshold, absolute=absolute)
    failures, whole = new_failures(old, new), slower_targets(lines, threshold)
    if not lines and not failures:
        hint = "a figure needs three rounds in both, and a baseline unless --absolute"
        raise UserError("the files have no figure in common", hint)
    if as_json:
        records = [*failures, *(line.record() for line in lines)]
        targets = [asdict(each) for each in whole]
        found = {"environment": differences(old, new), "slower_targets": targets, "figures": records}
        print(json.dumps(found, indent=1))
    else:
        _print(lines, failures, whole, differences(old, new), threshold)
    return REGRESSION if failures or whole or any(line.verdict == "slower" for line in lines) else 0


def _print(
    lines: list[Line], failures: list[Record], whole: list[Whole], different: list[str], threshold: float
) -> None:
    say = terminal.console()
    for said in different:
        say(f"note: {said}", "yellow")
    for failure in failures:
        problem = text.PROBLEMS.get(failure["problem"], failure["problem"])
        say(f"fails: {failure['figure']} on {failure['target']}: {problem}", "bold red")
    for each in whole:
        say(
            f"slower as a whole: {each.target}: ×{each.factor:.2f}, {each.slower} of {each.count} figures, "
            f"confidence {_sure(each.chance)}",
            "bold red",
        )
    counts: list[str] = []
    styles = {"slower": "bold red", "faster": "green", "perhaps slower": "yellow", "perhaps faster": "dim"}
    for verdict, style in styles.items():
        some = [line for line in lines if line.verdict == verdict]
        counts.append(f"{len(some)} {verdict}")
        for line in some:
            say(_sentence(line), style)
    say(
        f"{len(lines)} figures compared beyond {threshold:.0%}: {', '.join(counts)}; {len(failures)} fail now",
        "",
    )
    if any(line.verdict.startswith("perhaps") for line in lines):
        chance = f"of {len(lines)} figures about {len(lines) * _CHANCE:.0f} look like that by chance"
        say(f"perhaps: {chance}; more --rounds tell", "dim")


def _sentence(line: Line) -> str:
    found = line.change
    said = f"{line.verdict}: {line.figure.name} on {line.target}: ×{found.factor:.2f} (95 %: {found.low:.2f}–{found.high:.2f})"
    if line.verdict.startswith("perhaps"):
        return said
    return f"{said}, confidence {_sure(line.chance)}"


def _sure(chance: float) -> str:
    """Return a confidence in words: 99.96 % is not certain."""
    sure = min(1 - chance, 0.999)
    return f"{'over ' if sure < 1 - chance else ''}{100 * sure:.1f} %"
