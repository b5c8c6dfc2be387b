# SPDX-License-Identifier: Apache-2.0
"""The four bars of "An Updated Performance Comparison of Virtual Machines and Linux Containers" (Felter, Ferreira,
Rajamony and Rubio, IBM Research, 2014): sequential and random reads and writes of a container, natively and on each target.

As there: fio with libaio and O_DIRECT, 1 MiB in sequence, 4 KiB at random with 128 requests under way. Other than there,
fio runs inside a container whose root is the target, on the root filesystem itself; the file is 32 MiB, not 16 GB, for half
a second, not a minute. The same again through the page cache, as most programs do it: by psync, one request at a time, warm.

What is read lies in the image, what is written in the container's own layer.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from bench.machine.client import Figures, MeasurementError, Place
from bench.machine.inside import build_root, contained
from bench.machine.layers import Layers, write_big
from bench.workloads.fio import PROGRAMS, SIZE, Job, check_pattern, run_fio, sample
from bench.workloads.model import Figure, Workload

BARS = ("sequential-read", "sequential-write", "random-read", "random-write")
MANNERS = {"direct": "past the page cache", "cached": "page cache warm"}
_MODES = {
    "sequential-read": "read",
    "sequential-write": "write",
    "random-read": "randread",
    "random-write": "randwrite",
}
_TITLES = {"sequential": "1 MiB", "random": "4 KiB"}
_IMAGE_FILE = "var/image"
_OWN_FILE = "var/own"
_RUNTIME = "500ms"
_SEQUENTIAL_DEPTH = 8
_RANDOM_DEPTH = 128


def figure_name(manner: str, bar: str) -> str:
    """Return the name of the figure of one bar."""
    return f"{manner}-{bar}"


def _build(layers: Layers) -> None:
    build_root(layers)
    layers.write_big(_IMAGE_FILE, SIZE, 1)


def _job(manner: str, bar: str) -> Job:
    random = bar.startswith("random")
    engine, options = "psync", []
    if manner == "direct":
        engine, options = (
            "libaio",
            ["--direct=1", f"--iodepth={_RANDOM_DEPTH if random else _SEQUENTIAL_DEPTH}"],
        )
    return Job(figure_name(manner, bar), _MODES[bar], "4k" if random else "1M", engine, tuple(options))


def _run(manner: str) -> Callable[[Place], Figures]:
    jobs = [_job(manner, bar) for bar in BARS]

    def run(place: Place) -> Figures:
        image, own = Path(place.path(_IMAGE_FILE)), Path(place.path(_OWN_FILE))
        write_big(own, SIZE)
        for path in (image, own):
            check_pattern(path, written=False)  # and this warms the page cache
            if manner == "direct":
                _check_direct(path)
        place.settle()
        command = ["fio", "--output-format=json"]
        for job in jobs:
            command += job.arguments(f"/{_OWN_FILE if job.writes else _IMAGE_FILE}", _RUNTIME)
        results = {
            entry["jobname"]: entry for entry in run_fio(command, place.scratch, contained(place.mount))
        }
        for path in (own, place.upper / _OWN_FILE):
            check_pattern(path, written=True)
        check_pattern(image, written=False)
        return {job.figure: sample(job, results[job.figure], place) for job in jobs}

    return run


def _check_direct(path: Path) -> None:
    """MeasurementError where a filesystem refuses O_DIRECT."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT if path.name == "own" else os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise MeasurementError("unsupported", "it has no O_DIRECT") from None


def _figure(manner: str, bar: str) -> Figure:
    title = f"{bar.replace('-', ' ')}, {_TITLES[bar.partition('-')[0]]}"
    return Figure(figure_name(manner, bar), title, "B/s", True, MANNERS[manner])


def _workload(manner: str) -> Workload:
    figures = tuple(_figure(manner, bar) for bar in BARS)
    return Workload(
        f"classic-{manner}", "classic", figures, _run(manner), _build, size=3 * SIZE, programs=PROGRAMS,
        baseline="native", seconds=3.5,
    )  # fmt: skip


WORKLOADS = tuple(_workload(manner) for manner in MANNERS)
