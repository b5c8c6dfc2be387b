# SPDX-License-Identifier: Apache-2.0
"""Ways to change a file's data. Each takes its path and what it holds, and returns what it holds then."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path

Change = Callable[[Path, bytes], bytes]

NEW = b"NEW"


def write(path: Path, old: bytes) -> bytes:
    """Write over the beginning."""
    with path.open("r+b") as file:
        file.write(NEW)
    return NEW + old[len(NEW) :]


def append(path: Path, old: bytes) -> bytes:
    """Append the same again."""
    with path.open("ab") as file:
        file.write(old)
    return old + old


def truncate(path: Path, old: bytes) -> bytes:
    """Cut off all but ten bytes, without opening it."""
    os.truncate(path, 10)
    return old[:10]


def truncating_open(path: Path, old: bytes) -> bytes:
    """Replace all with less."""
    path.write_bytes(NEW)
    return NEW


def map_shared(path: Path, old: bytes) -> bytes:
    """Write over the beginning through a mapping."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as shared:
        shared[: len(NEW)] = NEW
    return NEW + old[len(NEW) :]


DATA: tuple[Change, ...] = (write, append, truncate, truncating_open, map_shared)
