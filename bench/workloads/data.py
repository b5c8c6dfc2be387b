# SPDX-License-Identifier: Apache-2.0
"""File data by fio: block sizes and engines. The page cache is warm unless said.

Files lie on a lower layer, on the writable one (upper), or have just been copied up. Each is read once before, through the
mount, which checks its content and fills the page cache.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.machine.client import Figures, Place, expect
from bench.machine.layers import Layers, write_big
from bench.targets.model import COPY_UP
from bench.workloads.fio import PROGRAMS, SIZE, Job, check_pattern, run_fio, sample
from bench.workloads.model import Figure, Workload

_LOWER = "data/lower"
_UPPER = "data/upper"
_COPIED = "data-copied/file"


def build_data(layers: Layers) -> None:
    """Make the file that is read from a lower layer."""
    layers.write_big(_LOWER, SIZE, 1)


def _build_copied(layers: Layers) -> None:
    layers.write_big(_COPIED, SIZE, 1)


def _run_jobs(
    jobs: tuple[Job, ...], read_from: str = _LOWER, *, write_to: str = _UPPER, runtime: str = "150ms"
) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        reading, writing = Path(place.path(read_from)), Path(place.path(write_to))
        if write_to == _UPPER:
            writing.parent.mkdir(exist_ok=True)
            write_big(writing, SIZE)
        else:
            _copy_up(writing, place.upper / write_to)
        for path in {reading, writing}:
            check_pattern(path, written=False)  # and this warms the page cache
        place.settle()
        command = ["fio", "--output-format=json"]
        for job in jobs:
            command += job.arguments(str(writing if job.writes else reading), runtime)
        results = {entry["jobname"]: entry for entry in run_fio(command, place.scratch)}
        if any(job.writes for job in jobs):
            check_pattern(writing, written=True)
            check_pattern(place.upper / write_to, written=True)
        return {job.figure: sample(job, results[job.figure], place) for job in jobs}

    return run


def _copy_up(path: Path, behind: Path) -> None:
    """Have a file copied up by a write that changes nothing."""
    with path.open("r+b", buffering=0) as stream:
        first = stream.read(1)
        stream.seek(0)
        stream.write(first)
    expect(behind.stat().st_size == SIZE, f"{path} has not been copied up")


def _speed(job: Job, title: str, state: str) -> Figure:
    return Figure(job.figure, title, "B/s", higher_is_better=True, state=state)


_BASIC = (
    Job("sequential-read", "read", "1M"),
    Job("sequential-write", "write", "1M"),
    Job("random-read", "randread", "4k"),
    Job("random-write", "randwrite", "4k"),
)
_BASIC_TITLES = (
    ("sequential read, 1 MiB", "page cache warm, lower layer"),
    ("sequential write, 1 MiB", "page cache, writable layer"),
    ("random read, 4 KiB", "page cache warm, lower layer"),
    ("random write, 4 KiB", "page cache, writable layer"),
)
BASIC = Workload(
    "basic", "data",
    tuple(_speed(job, *text) for job, text in zip(_BASIC, _BASIC_TITLES, strict=True)),
    _run_jobs(_BASIC), build_data, size=3 * SIZE, programs=PROGRAMS, seconds=2,
)  # fmt: skip


def _job_of(place: str, order: str, direction: str, block: str) -> Job:
    mode = {"seq": "", "rand": "rand"}[order] + direction
    return Job(f"{place}-{order}-{direction}-{block}", mode, _BLOCKS[block][0])


_BLOCKS = {"4k": ("4k", "4 KiB"), "128k": ("128k", "128 KiB"), "1m": ("1M", "1 MiB")}
_ORDERS = {"seq": "sequential", "rand": "random"}
_PLACES = {"lower": "on a lower layer", "upper": "on the writable layer", "copied": "right after copy-up"}


def _grid(place: str) -> Workload:
    """Return the workload of all orders, directions and block sizes for one place."""
    directions = ("read",) if place == "lower" else ("read", "write")  # written to, it would be copied up
    chosen = [(o, d, b) for d in directions for b in _BLOCKS for o in _ORDERS]
    jobs = tuple(_job_of(place, *words) for words in chosen)
    figures = tuple(
        _speed(job, f"{_ORDERS[o]} {d}, {_BLOCKS[b][1]}, {_PLACES[place]}", _WARM)
        for job, (o, d, b) in zip(jobs, chosen, strict=True)
    )
    run = {
        "lower": _run_jobs(jobs),
        "upper": _run_jobs(jobs, _UPPER),
        "copied": _run_jobs(jobs, _COPIED, write_to=_COPIED),
    }[place]
    build, needs = (
        (_build_copied, frozenset({COPY_UP})) if place == "copied" else (build_data, frozenset[str]())
    )
    return Workload(
        f"data-{place}",
        "data",
        figures,
        run,
        build,
        size=3 * SIZE,
        programs=PROGRAMS,
        needs=needs,
        seconds=0.4 + 0.4 * len(jobs),
    )


def _variant(name: str, title: str, state: str, *jobs: tuple[Job, str]) -> Workload:
    figures = tuple(_speed(job, f"{text}, {title}", state) for job, text in jobs)
    run = _run_jobs(tuple(job for job, _ in jobs))
    return Workload(
        name,
        "data",
        figures,
        run,
        build_data,
        size=3 * SIZE,
        programs=PROGRAMS,
        seconds=0.3 + 0.4 * len(jobs),
    )


def _pair(prefix: str, engine: str, *options: str) -> tuple[tuple[Job, str], tuple[Job, str]]:
    return (
        (Job(f"{prefix}-4k-read", "randread", "4k", engine, options), "random read, 4 KiB"),
        (Job(f"{prefix}-4k-write", "randwrite", "4k", engine, options), "random write, 4 KiB"),
    )


_WARM = "page cache warm"
_DIRECT = ("--direct=1",)
WORKLOADS = (
    _grid("lower"),
    _grid("upper"),
    _grid("copied"),
    _variant("data-mmap", "mmap", _WARM, *_pair("mmap", "mmap")),
    _variant("data-uring", "io_uring", _WARM, *_pair("uring", "io_uring", "--iodepth=8")),
    _variant("data-direct", "O_DIRECT", "past the page cache", *_pair("direct", "psync", *_DIRECT)),
    _variant("data-direct-1m", "O_DIRECT", "past the page cache",
             (Job("direct-1m-read", "read", "1M", "psync", _DIRECT), "sequential read, 1 MiB"),
             (Job("direct-1m-write", "write", "1M", "psync", _DIRECT), "sequential write, 1 MiB")),
    _variant("data-fsync", "fsync each", "to the disk",
             (Job("fsync-4k-write", "randwrite", "4k", "psync", ("--fsync=1",)), "random write, 4 KiB")),
)  # fmt: skip
