# SPDX-License-Identifier: Apache-2.0
"""Copy-up: what the first write to a file of a read-only layer costs, against its size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bench.client import Figures, Place, expect, time_each
from bench.layers import Build, Layers
from bench.workloads.model import Figure, MiB, Workload

_NEEDS = frozenset({"copy-up"})


def _append(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, b"!")
    finally:
        os.close(fd)


def _build(prefix: str, size: int, count: int) -> Build:
    def build(layers: Layers) -> None:
        for number in range(count):
            layers.write_big(f"{prefix}/f{number}", size, number)

    return build


def _run(figure: str, prefix: str, size: int, count: int) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        names = [f"{prefix}/f{number}" for number in range(count)]
        for name in names:  # warm: what is timed is the copying, not the disk's reading
            expect(Path(place.path(name)).stat().st_size == size, f"{name} has a wrong size")
            _read_all(place.path(name))
        sample = time_each(place, lambda n: _append(place.path(names[n])), count=count)
        for name in names:
            _expect_copied(place, name, size)
        return {figure: sample}

    return run


def _read_all(path: str) -> None:
    with open(path, "rb", buffering=0) as stream:
        while stream.read(MiB):
            pass


def _expect_copied(place: Place, name: str, size: int) -> None:
    """Look from both sides: the union and the writable branch."""
    for path in (Path(place.path(name)), place.upper / name):
        with path.open("rb") as stream:
            expect(
                os.fstat(stream.fileno()).st_size == size + 1, f"{path} has a wrong size after its copy-up"
            )
            stream.seek(size)
            expect(stream.read() == b"!", f"{path} misses what was written")


def size_text(size: int) -> str:
    """Return a size in KiB, MiB or GiB."""
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if size >= 1 << shift:
            return f"{size >> shift} {unit}"
    return f"{size >> 10} KiB"


def copy_up(size: int, count: int, suite: str = "copyup") -> Workload:
    """Return the workload that writes one byte to each of `count` files of `size` bytes in lower layers."""
    text = size_text(size)
    figure = f"copy-up-{text.replace(' ', '')}"
    prefix = f"copyup{size}"
    return Workload(
        figure, suite,
        (Figure(figure, f"first write to a lower file of {text}", state="page cache warm", curve="copy-up", x=size),),
        _run(figure, prefix, size, count), _build(prefix, size, count), size=size * count * 2, needs=_NEEDS,
        limit=60 + size * count / (20 * MiB),
    )  # fmt: skip


WORKLOADS = (
    copy_up(4096, 24),
    copy_up(64 << 10, 24),
    copy_up(MiB, 8),
    copy_up(16 * MiB, 3),
    copy_up(256 * MiB, 1),
)
