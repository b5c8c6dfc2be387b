# SPDX-License-Identifier: Apache-2.0
"""Somebody else's mounts, under names that a careless reader of the mount table takes for two lines, or for no text."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import syscalls

# The kernel escapes space, tab, newline and backslash; all the rest stands in the table as it is.
NAMES = (
    "carriage\rreturn",
    "vertical\vtab",
    "line\u2028end",
    "new\nline",
    os.fsdecode(b"no\xfftext"),
    "a - cgroup2 b",
)


@contextmanager
def odd_mounts(directory: Path) -> Iterator[list[Path]]:
    """Mount a tmpfs at each of NAMES below `directory` as long as the block lasts, and yield the mount points."""
    mounted: list[Path] = []
    try:
        for name in NAMES:
            path = directory / name
            path.mkdir()
            syscalls.mount("none", str(path), "tmpfs", 0)
            mounted.append(path)
        yield mounted
    finally:
        for path in mounted:
            syscalls.umount2(str(path), syscalls.MNT_DETACH)
