# SPDX-License-Identifier: Apache-2.0
"""What was tried and what was wrong: a line for each violation as it is found, a table and a closing line at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults.calls import Fault
from tests.faults.world import Configuration

Wrong = Callable[[str, object], None]  # takes the kind of a violation and its details


@dataclass(frozen=True)
class Violation:
    """One thing that must not be, and how to see it again."""

    configuration: Configuration
    operation: str
    fault: Fault | None
    kind: str
    detail: str
    call: str = ""

    def __str__(self) -> str:
        where = f"{self.configuration}: {self.operation}, {self.fault}: {self.kind}: {self.detail[:400]}"
        return (
            f"{where}  [{self.call[:100]}]\n    again: {self._again()}" if self.fault is not None else where
        )

    def _again(self) -> str:
        options = self.configuration
        assert self.fault is not None
        words = f"--session {options.session} --form {options.form} --udba {options.udba} --operation '^{self.operation}$'"
        what = f"{self.fault.error or 'KILL'}{'+' if self.fault.persistent else ''}"
        return f"python -m tests.faults {words} --fault {what} --call {self.fault.call} --number {self.fault.number}"


@dataclass
class Tally:
    """The figures of one configuration."""

    configuration: Configuration
    failed: int = 0
    killed: int = 0
    missed: int = 0  # the call was not made this time
    seconds: float = 0.0
    violations: list[Violation] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def report(self, operation: str, fault: Fault | None, kind: str, detail: object, call: str = "") -> None:
        """Note a violation."""
        violation = Violation(self.configuration, operation, fault, kind, str(detail), call)
        self.violations.append(violation)
        print(f"!! {violation}", flush=True)

    def add(self, part: Tally) -> None:
        """Take over the figures of a part."""
        self.failed += part.failed
        self.killed += part.killed
        self.missed += part.missed
        self.violations += part.violations

    def end(self) -> None:
        """Stop the clock."""
        self.seconds = time.monotonic() - self.began


def show(tallies: list[Tally]) -> None:
    """Print the table, the kinds of violations, and the closing line."""
    row = "{:<9}{:<9}{:<9}{:>8}{:>8}{:>8}{:>11}{:>9}"
    print(row.format("session", "form", "udba", "failed", "killed", "missed", "violations", "seconds"))
    for tally in tallies:
        one = tally.configuration
        print(
            row.format(
                one.session,
                one.form,
                one.udba,
                tally.failed,
                tally.killed,
                tally.missed,
                len(tally.violations),
                round(tally.seconds),
            )
        )
    kinds = Counter(violation.kind for tally in tallies for violation in tally.violations)
    for kind, count in kinds.most_common():
        print(f"  {kind}: {count}")
    failed, killed = sum(tally.failed for tally in tallies), sum(tally.killed for tally in tallies)
    seconds = sum(tally.seconds for tally in tallies)
    print(f"{failed} calls failed, {killed} kills: {kinds.total()} violations in {seconds:.0f} s")
