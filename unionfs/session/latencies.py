# SPDX-License-Identifier: Apache-2.0
"""Count requests by kind, with a histogram of their latencies, cheaply enough for the request path."""

from __future__ import annotations

from array import array
from typing import Any

_BUCKETS = 40  # bucket b holds latencies below 2**b microseconds / 8


class Histogram:
    """The requests of one kind."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        # The counts, then the seconds in all. Not a list: each number in it would be an object that lives for a while,
        # and one of them is enough to keep a megabyte of the interpreter's memory from being given back.
        self.values = array("d", [0.0] * (_BUCKETS + 1))

    def count(self, seconds: float) -> None:
        """Record a request that took `seconds`."""
        self.values[int(seconds * 8e6).bit_length()] += 1  # the last bucket begins after 19 hours
        self.values[_BUCKETS] += seconds


class Statistics:
    """Counts and latencies since the mount."""

    def __init__(self) -> None:
        self._kinds: dict[str, Histogram] = {}

    def histogram(self, kind: str) -> Histogram:
        """Return what counts requests of `kind`."""
        return self._kinds.setdefault(kind, Histogram())

    def count(self, kind: str, seconds: float) -> None:
        """Record one request of `kind` that took `seconds`."""
        self.histogram(kind).count(seconds)

    def requests(self) -> int:
        """Return how many requests there were."""
        return int(sum(sum(histogram.values[:_BUCKETS]) for histogram in list(self._kinds.values())))

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Return per kind: count, total seconds, and the 50th, 90th and 99th percentile in microseconds (upper bounds)."""
        return {
            kind: {
                "count": int(sum(histogram.values[:_BUCKETS])),
                "seconds": round(histogram.values[_BUCKETS], 6),
                "p50_us": _percentile(histogram.values, 0.50),
                "p90_us": _percentile(histogram.values, 0.90),
                "p99_us": _percentile(histogram.values, 0.99),
            }
            for kind, histogram in sorted(self._kinds.items())
            if histogram.values[_BUCKETS]
        }


def _percentile(histogram: array[float], fraction: float) -> float:
    wanted = sum(histogram[:_BUCKETS]) * fraction
    seen = 0.0
    for bucket, count in enumerate(histogram[:_BUCKETS]):
        seen += count
        if seen >= wanted:
            return float(2**bucket / 8)
    return float(2 ** (_BUCKETS - 1) / 8)
