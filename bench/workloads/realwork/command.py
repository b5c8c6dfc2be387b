# SPDX-License-Identifier: Apache-2.0
"""Programs that work in a target: a fixed environment, nothing waiting to be written when they start, errors in one line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from bench.client import MeasurementError, Place, Sample, Timing


def command(place: Place, *words: str | os.PathLike[str], **variables: str) -> bytes:
    """Run a program in the mounted directory and return its output; MeasurementError with its last line when it fails.

    Of the caller's environment it gets PATH only: nobody's settings change what is measured. `variables` are added.
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(place.scratch),
        "TMPDIR": str(place.scratch), "GIT_CONFIG_NOSYSTEM": "1", "PIP_CONFIG_FILE": os.devnull,
    } | variables  # fmt: skip
    done = subprocess.run(words, cwd=place.mount, capture_output=True, env=environment)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace").split("\n")[-1][:160]
        raise MeasurementError("failed", f"{os.fspath(words[0])}: {said or done.returncode}")
    return done.stdout


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
