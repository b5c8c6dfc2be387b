# SPDX-License-Identifier: Apache-2.0
"""File data by fio: the four classic bars, and more block sizes and engines. The page cache is warm unless said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.client import Figures, MeasurementError, Place, Sample, expect
from bench.layers import Layers, pattern, write_big
from bench.workloads.model import Figure, MiB, Workload

_SIZE = 32 * MiB
_LOWER = "data/lower"
_UPPER = "data/upper"
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


def _run_jobs(
    jobs: tuple[_Job, ...], read_from: str = _LOWER, runtime: str = "150ms"
) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        upper = Path(place.path(_UPPER))
        upper.parent.mkdir(exist_ok=True)
        write_big(upper, _SIZE)
        reading = Path(place.path(read_from))
        for path in {reading, upper}:
            _check_pattern(path, written=False)  # and this warms the page cache
        place.settle()
        command = ["fio", "--output-format=json"]
        for job in jobs:
            command += job.arguments(str(upper if job.writes else reading), runtime)
        results = {entry["jobname"]: entry for entry in _fio(command, place)}
        if any(job.writes for job in jobs):
            _check_pattern(upper, written=True)
            _check_pattern(place.upper / _UPPER, written=True)
        return {job.figure: _sample(job, results[job.figure], place) for job in jobs}

    return run


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
    _run_jobs(_CLASSIC), build_data, size=3 * _SIZE, programs=_FIO,
)  # fmt: skip


def _variant(
    name: str, title: str, state: str, jobs: tuple[tuple[_Job, str], ...], read_from: str = _LOWER
) -> Workload:
    figures = tuple(_speed(job, f"{text}, {title}", state) for job, text in jobs)
    run = _run_jobs(tuple(job for job, _ in jobs), read_from, runtime="300ms")
    return Workload(name, "data", figures, run, build_data, size=3 * _SIZE, programs=_FIO)


def _pair(
    prefix: str, block: str, engine: str = "psync", options: tuple[str, ...] = ()
) -> tuple[tuple[_Job, str], ...]:
    return (
        (_Job(f"{prefix}-read", "randread", block, engine, options), f"random read, {block}"),
        (_Job(f"{prefix}-write", "randwrite", block, engine, options), f"random write, {block}"),
    )


_WARM = "page cache warm"
WORKLOADS = (
    _variant("data-128k", "psync", _WARM, _pair("psync-128k", "128k")),
    _variant("data-1m", "psync", _WARM, _pair("psync-1m", "1M")),
    _variant("data-upper", "writable layer", _WARM, _pair("upper-4k", "4k"), _UPPER),
    _variant("data-mmap", "mmap", _WARM, _pair("mmap-4k", "4k", "mmap")),
    _variant("data-uring", "io_uring", _WARM, _pair("uring-4k", "4k", "io_uring", ("--iodepth=8",))),
    _variant("data-direct", "O_DIRECT", "past the page cache", _pair("direct-4k", "4k", "psync", ("--direct=1",))),
    _variant("data-fsync", "fsync each", "to the disk",
             ((_Job("fsync-4k-write", "randwrite", "4k", "psync", ("--fsync=1",)), "random write, 4k"),)),
)  # fmt: skip
