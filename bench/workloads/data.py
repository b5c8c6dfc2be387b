# SPDX-License-Identifier: Apache-2.0
"""File data by fio: the four classic bars, and more block sizes and engines. The page cache is warm unless said.

Files lie on a lower layer, on the writable one (upper), or have just been copied up. Each is read once before, through the
mount, which checks its content and fills the page cache.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.client import Figures, MeasurementError, Place, Sample, expect
from bench.layers import Layers, pattern, write_big
from bench.targets.model import COPY_UP
from bench.workloads.model import Figure, MiB, Workload

_SIZE = 32 * MiB
_LOWER = "data/lower"
_UPPER = "data/upper"
_COPIED = "data-copied/file"
_FILL = "0xfeedc0de"  # what fio writes, so that the check can tell it from the pattern
_FIO = (("fio", "fio"),)


@dataclass(frozen=True, slots=True)
class _Job:
    """One fio job; `mode` is fio's rw=, `block` its bs=."""

    figure: str
    mode: str
    block: str
    engine: str = "psync"
    options: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        return self.mode.endswith("write")

    def arguments(self, file: str, runtime: str) -> list[str]:
        # invalidate=0 and fadvise_hint=0: fio must not drop or tune the page cache behind our back.
        return [
            f"--name={self.figure}", "--stonewall", f"--filename={file}", f"--rw={self.mode}", f"--bs={self.block}",
            f"--ioengine={self.engine}", f"--size={_SIZE}", "--thread", "--invalidate=0", "--fadvise_hint=0",
            "--fallocate=none", "--time_based", f"--runtime={runtime}", f"--buffer_pattern={_FILL}", *self.options,
        ]  # fmt: skip


def build_data(layers: Layers) -> None:
    """Make the file that is read from a lower layer."""
    layers.write_big(_LOWER, _SIZE, 1)


def _build_copied(layers: Layers) -> None:
    layers.write_big(_COPIED, _SIZE, 1)


def _run_jobs(
    jobs: tuple[_Job, ...], read_from: str = _LOWER, *, write_to: str = _UPPER, runtime: str = "150ms"
) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        reading, writing = Path(place.path(read_from)), Path(place.path(write_to))
        if write_to == _UPPER:
            writing.parent.mkdir(exist_ok=True)
            write_big(writing, _SIZE)
        else:
            _copy_up(writing, place.upper / write_to)
        for path in {reading, writing}:
            _check_pattern(path, written=False)  # and this warms the page cache
        place.settle()
        command = ["fio", "--output-format=json"]
        for job in jobs:
            command += job.arguments(str(writing if job.writes else reading), runtime)
        results = {entry["jobname"]: entry for entry in _fio(command, place)}
        if any(job.writes for job in jobs):
            _check_pattern(writing, written=True)
            _check_pattern(place.upper / write_to, written=True)
        return {job.figure: _sample(job, results[job.figure], place) for job in jobs}

    return run


def _copy_up(path: Path, behind: Path) -> None:
    """Have a file copied up by a write that changes nothing."""
    with path.open("r+b", buffering=0) as stream:
        first = stream.read(1)
        stream.seek(0)
        stream.write(first)
    expect(behind.stat().st_size == _SIZE, f"{path} has not been copied up")


def _fio(command: list[str], place: Place) -> list[dict[str, object]]:
    done = subprocess.run(command, cwd=place.scratch, capture_output=True, text=True)
    start = done.stdout.find("{")
    if done.returncode or start < 0:
        said = (done.stderr or done.stdout).strip().split("\n")[-1]
        raise MeasurementError("failed", f"fio: {said}")
    jobs: list[dict[str, object]] = json.loads(done.stdout[start:])["jobs"]
    return jobs


def _sample(job: _Job, result: dict[str, object], place: Place) -> Sample:
    half = result["write" if job.writes else "read"]
    assert isinstance(half, dict)
    expect(half["io_bytes"] > 0, f"fio did no {job.mode}")
    speed = float(half["bw_bytes"]) / (1 + place.slowdown)
    return Sample(speed, int(half["total_ios"]), details={"iops": half["iops"], "p99": _p99(half)})


def _p99(half: dict[str, dict[str, dict[str, float]]]) -> float:
    return float(half["clat_ns"].get("percentile", {}).get("99.000000", 0)) / 1e9


def _check_pattern(path: Path, *, written: bool) -> None:
    """Every 4 KiB is the original or, after writing, what fio wrote; a writer must have left a trace."""
    fill = bytes.fromhex(_FILL[2:]) * 1024
    seen = False
    with path.open("rb", buffering=0) as stream:
        for start in range(0, _SIZE, MiB):
            chunk = stream.read(MiB)
            original = pattern(start, MiB)
            if chunk == original:
                continue
            expect(written and len(chunk) == MiB, f"{path} has a wrong content")
            seen = True
            for at in range(0, MiB, 4096):
                block = chunk[at : at + 4096]
                expect(
                    block in (fill, original[at : at + 4096]), f"{path} has a wrong content at {start + at}"
                )
        expect(not stream.read(1), f"{path} is too long")
    expect(seen or not written, f"{path} was not written")


def _speed(job: _Job, title: str, state: str) -> Figure:
    return Figure(job.figure, title, "B/s", higher_is_better=True, state=state)


_CLASSIC = (
    _Job("sequential-read", "read", "1M"),
    _Job("sequential-write", "write", "1M"),
    _Job("random-read", "randread", "4k"),
    _Job("random-write", "randwrite", "4k"),
)
_CLASSIC_TITLES = (
    ("sequential read, 1 MiB", "page cache warm, lower layer"),
    ("sequential write, 1 MiB", "page cache, writable layer"),
    ("random read, 4 KiB", "page cache warm, lower layer"),
    ("random write, 4 KiB", "page cache, writable layer"),
)
CLASSIC = Workload(
    "classic", "classic",
    tuple(_speed(job, *text) for job, text in zip(_CLASSIC, _CLASSIC_TITLES, strict=True)),
    _run_jobs(_CLASSIC), build_data, size=3 * _SIZE, programs=_FIO, seconds=2,
)  # fmt: skip


def _job_of(place: str, order: str, direction: str, block: str) -> _Job:
    mode = {"seq": "", "rand": "rand"}[order] + direction
    return _Job(f"{place}-{order}-{direction}-{block}", mode, _BLOCKS[block][0])


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
        size=3 * _SIZE,
        programs=_FIO,
        needs=needs,
        seconds=0.4 + 0.4 * len(jobs),
    )


def _variant(name: str, title: str, state: str, *jobs: tuple[_Job, str]) -> Workload:
    figures = tuple(_speed(job, f"{text}, {title}", state) for job, text in jobs)
    run = _run_jobs(tuple(job for job, _ in jobs))
    return Workload(
        name, "data", figures, run, build_data, size=3 * _SIZE, programs=_FIO, seconds=0.3 + 0.4 * len(jobs)
    )


def _pair(prefix: str, engine: str, *options: str) -> tuple[tuple[_Job, str], tuple[_Job, str]]:
    return (
        (_Job(f"{prefix}-4k-read", "randread", "4k", engine, options), "random read, 4 KiB"),
        (_Job(f"{prefix}-4k-write", "randwrite", "4k", engine, options), "random write, 4 KiB"),
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
             (_Job("direct-1m-read", "read", "1M", "psync", _DIRECT), "sequential read, 1 MiB"),
             (_Job("direct-1m-write", "write", "1M", "psync", _DIRECT), "sequential write, 1 MiB")),
    _variant("data-fsync", "fsync each", "to the disk",
             (_Job("fsync-4k-write", "randwrite", "4k", "psync", ("--fsync=1",)), "random write, 4 KiB")),
)  # fmt: skip
