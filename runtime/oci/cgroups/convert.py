# SPDX-License-Identifier: Apache-2.0
"""Numbers of `linux.resources`, which are v1's, as v2 wants them. Pure functions; `docs/cgroups.md` has the table."""

from __future__ import annotations

from runtime.oci.failure import Failure

_DEFAULT_PERIOD = "100000"


def limit(value: int) -> str:
    """Return a v2 limit: "max" for -1."""
    return "max" if value < 0 else str(value)


def cpu_weight(shares: int) -> int:
    """Return cpu.weight (1 to 10000) for cpu.shares (2 to 262144).

    A curve through the ends and the defaults, so that 1024 shares are a weight of 100; a straight line, as runtimes used to
    draw, would give them 39 and starve containers beside processes outside.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    import math  # a shared object on some systems, and seldom needed

    power = math.log2(shares)
    exponent = (power * power + 125 * power) / 612 - 7 / 34
    return math.ceil(round(10**exponent, 9))


def io_weight(weight: int) -> int:
    """Return io.weight (1 to 10000) for blkio.weight (10 to 1000)."""
    return 1 + (weight - 10) * 9999 // 990


def cpu_max(quota: int | None, period: int | None, present: str | None) -> str:
    """Return cpu.max for a quota and a period in µs; what is not given is kept as `present`, the file's text, has it."""
    old_quota, _, old_period = (present or f"max {_DEFAULT_PERIOD}").partition(" ")
    text = old_quota if quota is None else "max" if quota <= 0 else str(quota)
    return f"{text} {period or old_period or _DEFAULT_PERIOD}"


def swap_only(memory: int | None, both: int | None) -> str | None:
    """Return memory.swap.max for a limit on memory and one on memory and swap together; None to leave it.

    -1 is unlimited; unlimited memory without a word on swap lifts that too. Failure where the difference makes no sense.
    """
    if both is None:
        return "max" if memory == -1 else None
    if both < 0:
        return "max"
    if memory is None or memory < 0:
        raise Failure(
            "linux.resources.memory.swap counts memory and swap together and needs memory.limit with it",
            "set both, or swap to -1",
        )
    if both < memory:
        raise Failure(
            f"linux.resources.memory.swap ({both}) is below memory.limit ({memory})",
            "it counts both together",
        )
    return str(both - memory)
