# SPDX-License-Identifier: Apache-2.0
"""Which faults are tried: every error or kill at every call of an operation, or an even share of that."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.faults.calls import CHANGING, OPENING, Fault

# The error, and whether names were looked up before: then other calls are made.
ERRORS = {"ENOSPC": False, "EIO": True, "EDQUOT": False, "EMFILE": True, "EINTR": True, "EIO+": False}
KILL = "KILL"


@dataclass
class Plan:
    """The choice that the command line makes. `share`: every n-th point only."""

    operations: str = "."
    faults: tuple[str, ...] = (*ERRORS, KILL)
    call: str = "."
    number: int = 0
    share: int = 1
    which: tuple[int, int] = (0, 1)  # the part, and how many there are
    _count: int = field(default=0)

    def part(self, index: int, count: int) -> Plan:
        """Return a plan for one of `count` parts of the operations."""
        return replace(self, which=(index, count))

    def wants(self, operation: str) -> bool:
        """Tell whether an operation is to be tried."""
        index, count = self.which
        return zlib.crc32(operation.encode()) % count == index and bool(re.search(self.operations, operation))

    def errors(self) -> list[str]:
        """Return the errors that are to be tried."""
        return [name for name in ERRORS if name in self.faults]

    @property
    def kills(self) -> bool:
        """Tell whether kills are to be tried."""
        return KILL in self.faults

    def points(self, what: str, calls: dict[str, list[str]]) -> Iterator[tuple[Fault, str]]:
        """Yield the chosen faults, with the arguments of the call that each hits."""
        error = "" if what == KILL else what.removesuffix("+")
        for call in sorted(calls):
            if not re.fullmatch(self.call, call) and self.call != ".":
                continue
            for number, arguments in enumerate(calls[call], start=1):
                if self.number and number != self.number:
                    continue
                self._count += 1
                if self._count % self.share == 0:
                    yield Fault(call, number, error, what.endswith("+")), arguments


def traced(what: str) -> tuple[str, ...]:
    """Return the calls that an error is tried at."""
    return OPENING if what == "EMFILE" else CHANGING
