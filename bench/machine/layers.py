# SPDX-License-Identifier: Apache-2.0
"""The files that targets are mounted over: built once as layers, and again by the same calls as one plain tree.

The benchmark trap this avoids: reading speed depends on the folio size of a file's cached pages, which depends on how the
file was written. A copy made by `cp` is not the same file as one made here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.machine.unprivileged import User

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Layers:
    """Directories to fill, the uppermost first; for a plain tree it is one directory."""

    roots: tuple[Path, ...]

    def path(self, name: str, number: int = 0) -> Path:
        """Return where file `name` goes when it belongs to layer `number`; its parents are made."""
        path = self.roots[number % len(self.roots)] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, data: bytes, number: int = 0) -> None:
        """Write a small file."""
        self.path(name, number).write_bytes(data)

    def write_big(self, name: str, size: int, number: int = 0) -> None:
        """Write a file of `size` bytes in chunks of 1 MiB."""
        write_big(self.path(name, number), size)


Build = Callable[[Layers], None]


def pattern(seed: int, size: int) -> bytes:
    """Return bytes that differ from file to file and can be made again for the check."""
    line = f"unionbench {seed:012d} ".encode()
    return (line * (size // len(line) + 1))[:size]


def write_big(path: Path, size: int) -> None:
    """Write `size` bytes of pattern in chunks of 1 MiB."""
    with path.open("wb", buffering=0) as stream:
        for number in range(0, size, _CHUNK):
            stream.write(pattern(number, min(_CHUNK, size - number)))


def build_layers(directory: Path, count: int, builds: Sequence[Build], user: User | None = None) -> Layers:
    """Make `count` layer directories in `directory` and fill them; they are `user`'s, or root's."""
    roots = tuple(directory / f"l{number}" for number in range(count))
    for root in roots:
        root.mkdir(parents=True)
        if user is not None:
            os.chown(root, user.uid, user.uid)
    layers = Layers(roots)
    with user.acting() if user else nullcontext():
        for build in builds:
            build(layers)
    return layers


def build_plain(directory: Path, builds: Sequence[Build]) -> None:
    """Fill one directory with what the layers hold together."""
    for build in builds:
        build(Layers((directory,)))
