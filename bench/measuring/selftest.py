# SPDX-License-Identifier: Apache-2.0
"""The method put to the test: a target against itself must come out equal, and one that was slowed down must be found.

Of many intervals a few miss the truth, that is what their confidence means. So the number of misses is judged: it must be one
that an honest method gives by chance in more than one of a hundred runs. How many figures find the slowdown each by
itself depends on how quiet the machine is; all of them together must find it on any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.results import text
from bench.results.estimate import Estimate, confidence, estimate
from bench.results.results import Results, summarize

_TOO_RARE = 0.01


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run shows of one label. `held` counts the intervals that contain the true ratio `truth`."""

    label: str
    truth: float
    ratios: dict[str, Estimate]

    @property
    def held(self) -> int:
        """Return how many intervals contain the truth."""
        return sum(r.low <= self.truth <= r.high for r in self.ratios.values())

    @property
    def above(self) -> int:
        """Return how many intervals lie wholly above 1."""
        return sum(r.low > 1 for r in self.ratios.values())

    @property
    def together(self) -> Estimate:
        """Return the middle one of all ratios, with the interval that the figures, as samples of it, give."""
        return estimate([r.median for r in self.ratios.values()])

    @property
    def chance(self) -> float:
        """Return how often an honest method misses the truth as often as that or oftener."""
        count = len(self.ratios)
        miss = 1 - min((confidence(r.count) for r in self.ratios.values()), default=1.0)
        return sum(
            math.comb(count, k) * miss**k * (1 - miss) ** (count - k)
            for k in range(count - self.held, count + 1)
        )

    @property
    def passed(self) -> bool:
        """Tell whether the method stands: equals come out as equal, and slowed ones are found, by the right amount."""
        if not self.ratios:
            return False
        if self.chance <= _TOO_RARE:
            return False
        return self.truth == 1 or self.together.low > 1

    def sentence(self) -> str:
        """Return the outcome in words."""
        count = len(self.ratios)
        word = "" if self.passed else "NOT AS IT SHOULD BE: "
        middle = "no ratios"
        if count:
            together = self.together
            middle = f"together ×{text.three(together.median)} ({text.bounds(together)})"
        if self.truth == 1:
            expected = sum(1 - confidence(r.count) for r in self.ratios.values())
            return (
                f"{word}{self.label}, the same target again: {self.held} of {count} intervals contain ×1.00; "
                f"{expected:.1f} misses are expected by chance, {count - self.held} came; {middle}"
            )
        return (
            f"{word}{self.label}, {self.truth - 1:.0%} slower on purpose: {self.above} of {count} intervals lie wholly above "
            f"×1.00, {self.held} contain ×{self.truth:.2f}; {middle}"
        ).replace("%", " %")


def judge(results: Results) -> list[Verdict]:
    """Return a verdict for each label that is the baseline's target once more, slowed down or not.

    Only figures of time and speed are judged: a slowdown does not change memory.
    """
    same = {t["label"]: t for t in results.run["targets"]}
    base = same.get(results.baseline, {"name": ""})
    rows = [row for row in summarize(results) if row[0].figure.unit in ("s", "B/s", "op/s")]
    verdicts = []
    for label, target in same.items():
        if target["name"] == base["name"] and label != results.baseline:
            cells = [next(cell for cell in row if cell.target == label) for row in rows]
            ratios = {c.figure.name: c.ratio for c in cells if c.ratio and c.ratio.count > 1}
            verdicts.append(Verdict(label, 1 + target["slowdown"], ratios))
    return verdicts
