# SPDX-License-Identifier: Apache-2.0
"""fio: jobs that the page cache is not tuned for, their results, and the check of what they wrote."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.machine.client import MeasurementError, Place, Sample, expect
from bench.machine.layers import pattern
from bench.workloads.model import MiB

PROGRAMS = (("fio", "fio"),)
SIZE = 32 * MiB  # of every file
_FILL = "0xfeedc0de"  # what fio writes, so that the check can tell it from the pattern


@dataclass(frozen=True, slots=True)
class Job:
    """One fio job; `mode` is fio's rw=, `block` its bs=, `figure` the name of the figure that it yields."""

    figure: str
    mode: str
    block: str
    engine: str = "psync"
    options: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        """Tell whether it writes."""
        return self.mode.endswith("write")

    def arguments(self, file: str, runtime: str) -> list[str]:
        """Return the words of fio's command line for this job, after those before it."""
        # invalidate=0 and fadvise_hint=0: fio must not drop or tune the page cache behind our back.
        return [
            f"--name={self.figure}", "--stonewall", f"--filename={file}", f"--rw={self.mode}", f"--bs={self.block}",
            f"--ioengine={self.engine}", f"--size={SIZE}", "--thread", "--invalidate=0", "--fadvise_hint=0",
            "--fallocate=none", "--time_based", f"--runtime={runtime}", f"--buffer_pattern={_FILL}", *self.options,
        ]  # fmt: skip


def run_fio(
    command: list[str], directory: Path, enter: Callable[[], None] | None = None
) -> list[dict[str, object]]:
    """Run fio and return its results by job; it starts in `directory`, or where `enter` takes it."""
    done = subprocess.run(command, cwd=directory, preexec_fn=enter, capture_output=True, text=True)
    start = done.stdout.find("{")
    if done.returncode or start < 0:
        said = (done.stderr or done.stdout).strip().split("\n")[-1]
        raise MeasurementError("failed", f"fio: {said}")
    jobs: list[dict[str, object]] = json.loads(done.stdout[start:])["jobs"]
    return jobs


def sample(job: Job, result: dict[str, object], place: Place) -> Sample:
    """Return the speed that a job had, in bytes a second."""
    half = result["write" if job.writes else "read"]
    assert isinstance(half, dict)
    expect(half["io_bytes"] > 0, f"fio did no {job.mode}")
    speed = float(half["bw_bytes"]) / (1 + place.slowdown)
    return Sample(speed, int(half["total_ios"]), details={"iops": half["iops"], "p99": _p99(half)})


def _p99(half: dict[str, dict[str, dict[str, float]]]) -> float:
    return float(half["clat_ns"].get("percentile", {}).get("99.000000", 0)) / 1e9


def check_pattern(path: Path, *, written: bool) -> None:
    """Every 4 KiB is the original or, after writing, what fio wrote; a writer must have left a trace."""
    fill = bytes.fromhex(_FILL[2:]) * 1024
    seen = False
    with path.open("rb", buffering=0) as stream:
        for start in range(0, SIZE, MiB):
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
