# SPDX-License-Identifier: Apache-2.0
"""Count requests by kind, with a histogram of their latencies, cheaply enough for the request path."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

_BUCKETS = 40  # bucket b holds latencies below 2**b microseconds / 8


class Statistics:
    """Counts and latencies since the mount."""

    def __init__(self) -> None:
        # By kind the counts, then the seconds in all. Not a list: each number in it would be an object that lives for a while,
        # and one of them is enough to keep a megabyte of the interpreter's memory from being given back.
        self._kinds: dict[str, array[float]] = {}

    def expect(self, kinds: Iterable[str]) -> None:
        """Make room for kinds of requests that may come."""
        for kind in kinds:
            self._kinds.setdefault(kind, array("d", [0.0] * (_BUCKETS + 1)))

    def count(self, kind: str, seconds: float) -> None:
        """Record one request of `kind` that took `seconds`."""
        histogram = self._kinds.get(kind)
        if histogram is None:
            self.expect([kind])
            histogram = self._kinds[kind]
        histogram[int(seconds * 8e6).bit_length()] += 1  # the last bucket begins after 19 hours
        histogram[_BUCKETS] += seconds

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Return per kind: count, total seconds, and the 50th, 90th and 99th percentile in microseconds (upper bounds)."""
        return {
            kind: {
                "count": int(sum(histogram[:_BUCKETS])),
                "seconds": round(histogram[_BUCKETS], 6),
                "p50_us": _percentile(histogram, 0.50),
                "p90_us": _percentile(histogram, 0.90),
                "p99_us": _percentile(histogram, 0.99),
            }
            for kind, histogram in sorted(self._kinds.items())
            if any(histogram)
        }


def _percentile(histogram: array[float], fraction: float) -> float:
    wanted = sum(histogram[:_BUCKETS]) * fraction
    seen = 0.0
    for bucket, count in enumerate(histogram[:_BUCKETS]):
        seen += count
        if seen >= wanted:
            return float(2**bucket / 8)
    return float(2 ** (_BUCKETS - 1) / 8)
