# SPDX-License-Identifier: Apache-2.0
"""The files that real work is done on: sizes like those of a source tree, made once a run, compared with what came out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.machine.client import Place, expect

Files = Iterable[tuple[str, bytes]]  # name and content
_COMPARED = 20  # one file in so many is read through the mount; all of them are read in the branch


def size_of(number: int) -> int:
    """Return sizes in bytes spread like those of a source tree: many small, few big (median near 4 KiB)."""
    return 200 + (number * 7919 % 101) ** 2 * (1 + number % 3)


def prepared(scratch: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Return directory `name` as filled by `make`: once a run, before anything is timed, and written to the disk."""
    directory = scratch / name
    if not directory.exists():
        unfinished = scratch / f"{name}.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        make(unfinished)
        unfinished.rename(directory)
        os.sync()
    return directory


def expect_files(place: Place, directory: str, files: Files) -> int:
    """Compare new files with what they must be, through the mount and in the branch, and return how many there are.

    MeasurementError for one that is absent or differs, and for one too many.
    """
    count = 0
    for count, (name, data) in enumerate(files, 1):
        seen, written = place.mount / directory / name, place.upper / directory / name
        expect(written.is_file() and written.read_bytes() == data, f"{written} has a wrong content")
        expect(seen.is_file() and seen.stat().st_size == len(data), f"{seen} is absent or has a wrong size")
        if count % _COMPARED == 1:
            expect(seen.read_bytes() == data, f"{seen} has a wrong content")
    return count


def count_files(directory: Path) -> int:
    """Return the number of files below a directory."""
    return sum(len(names) for _, _, names in os.walk(directory))
