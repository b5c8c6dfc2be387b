# SPDX-License-Identifier: Apache-2.0
"""What an otherwise idle client waits for a small file while another one unpacks a source tree."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence

from bench.machine.client import Figures, Place, Sample, expect, quantiles
from bench.machine.layers import pattern
from bench.workloads.metadata import FILE_SIZE, build_files, file_name, read_file
from bench.workloads.model import Figure, MiB, Workload
from bench.workloads.realwork.files import expect_files
from bench.workloads.realwork.tree import tarball, tree_files

_ALONE = 150  # operations before the other client starts
_THINKING = 0.002  # seconds between two operations
_BUSY_SECONDS = 1.5
_MOST_TREES = 8


def percentiles(latencies: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the median, the 95th and 99th percentile (each a value that occurred) and the maximum."""
    ordered = sorted(latencies)
    middle, high, higher = (ordered[math.ceil(q * len(ordered)) - 1] for q in (0.5, 0.95, 0.99))
    return middle, high, higher, ordered[-1]


def _idle(place: Place, going: Callable[[int], bool]) -> list[float]:
    """Open, read and close a small lower file now and then while `going`; return how long each took."""
    latencies: list[float] = []
    while going(len(latencies)):
        small = len(latencies) % 100
        name = place.path(file_name(small))
        start = time.perf_counter()
        data = read_file(name)
        latencies.append(time.perf_counter() - start)
        expect(data == pattern(small, FILE_SIZE), f"{name} has a wrong content")
        time.sleep(_THINKING)
    return latencies


def _untar(place: Place, trees: int) -> subprocess.Popen[bytes]:
    """Start to unpack, into a directory of its own."""
    directory = place.mount / f"busy{trees}"
    directory.mkdir()
    words: list[str | os.PathLike[str]] = ["tar", "xf", tarball(place.scratch), "--no-same-owner"]
    return subprocess.Popen(words, cwd=directory, stderr=subprocess.PIPE)


def _beside_untar(place: Place) -> Figures:
    tarball(place.scratch)
    place.settle()
    alone = _idle(place, lambda done: done < _ALONE)
    latencies: list[float] = []
    trees = 0
    end = time.monotonic() + _BUSY_SECONDS
    while trees < _MOST_TREES and (not trees or time.monotonic() < end):
        with _untar(place, trees) as busy:
            latencies += _idle(place, lambda _: busy.poll() is None)
            assert busy.stderr is not None
            said = busy.stderr.read().decode(errors="replace").strip()
        expect(busy.returncode == 0, f"tar failed: {said[-100:]}")
        trees += 1
    expect_files(place, "busy0/source", tree_files())
    for tree in range(trees):
        shutil.rmtree(place.mount / f"busy{tree}")
    return _figures(alone, latencies)


def _figures(alone: list[float], beside: list[float]) -> Figures:
    """The whole distribution is kept with the medians."""
    middle, high, higher, highest = percentiles(beside)
    count = len(beside)
    return {
        "latency-alone": Sample(percentiles(alone)[0], len(alone), latency=quantiles(alone)),
        "latency-beside-untar": Sample(middle, count, latency=quantiles(beside)),
        "latency-beside-untar-p95": Sample(high, count),
        "latency-beside-untar-p99": Sample(higher, count),
        "latency-beside-untar-max": Sample(highest, count),
    }


_LATENCIES = (
    Figure("latency-alone", "open-read-close of an idle client, alone: median", state="warm"),
    Figure("latency-beside-untar", "the same beside an untar: median", state="warm"),
    Figure("latency-beside-untar-p95", "the same beside an untar: 95th percentile", state="warm"),
    Figure("latency-beside-untar-p99", "the same beside an untar: 99th percentile", state="warm"),
    Figure("latency-beside-untar-max", "the same beside an untar: maximum", state="warm"),
)

WORKLOADS = (
    Workload("beside-untar", "concurrency", _LATENCIES, _beside_untar, build_files, size=8 * MiB, limit=180,
             temporary=_MOST_TREES * 48 * MiB, prepare=tarball, seconds=3.5, programs=(("tar", "tar"),)),
)  # fmt: skip
