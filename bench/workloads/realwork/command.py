# SPDX-License-Identifier: Apache-2.0
"""Programs that work in a target: a fixed environment, nothing waiting to be written when they start, errors in one line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.machine.client import MeasurementError, Place, Sample, Timing


def command(place: Place, *words: str | os.PathLike[str], **variables: str) -> bytes:
    """Run a program in the mounted directory and return its output; MeasurementError with its own words when it fails.

    Of the caller's environment it gets PATH only: nobody's settings change what is measured. `variables` are added.
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(place.scratch),
        "TMPDIR": str(place.scratch), "GIT_CONFIG_NOSYSTEM": "1", "PIP_CONFIG_FILE": os.devnull,
    } | variables  # fmt: skip
    done = subprocess.run(words, cwd=place.mount, capture_output=True, env=environment)
    if done.returncode:
        said = _first_and_last(done.stderr) or _first_and_last(done.stdout) or f"status {done.returncode}"
        raise MeasurementError("failed", f"{Path(words[0]).name} failed: {said}")
    return done.stdout


def _first_and_last(output: bytes) -> str:
    """Some programs begin with the reason, others end with it."""
    lines = [line.strip()[:120] for line in output.decode(errors="replace").splitlines() if line.strip()]
    return " … ".join(dict.fromkeys([*lines[:1], *lines[-1:]]))


@contextmanager
def timed(place: Place) -> Iterator[Timing]:
    """Time the block, after what others wrote before it has reached the disk."""
    os.sync()
    place.settle()
    with place.timed() as timing:
        yield timing


def sample(timing: Timing, operations: int) -> Sample:
    """Return the sample of a region that did so many operations."""
    return Sample(timing.seconds, operations, timing.server_cpu)
