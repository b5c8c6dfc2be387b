# SPDX-License-Identifier: Apache-2.0
"""Copy-up: what the first write to a file of a read-only layer costs, against its size."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench.machine.client import Figures, MeasurementError, Place, expect, time_each
from bench.machine.layers import Build, Layers, pattern
from bench.targets.model import COPY_UP
from bench.workloads.model import Figure, MiB, Workload

_NEEDS = frozenset({COPY_UP})
_GROUP = "copyup"  # layers of their own: targets that cannot copy up need not have the files
_MANY = 24  # files a figure is the mean of


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
            os.unlink(place.path(name))  # big ones need not stay
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


def copy_up(size: int, count: int, suite: str = "copyup", rounds: int = 0) -> Workload:
    """Return the workload that writes one byte to each of `count` files of `size` bytes in lower layers."""
    note = f"; {rounds} round{'s' if rounds > 1 else ''} at most" if rounds else ""
    state = f"page cache warm{note}"
    text = size_text(size)
    figure = f"copy-up-{text.replace(' ', '')}"
    prefix = f"copyup{size}"
    total = size * count
    group = "gigabyte" if size >= 1 << 30 else _GROUP
    return Workload(
        figure, suite,
        (Figure(figure, f"first write to a lower file of {text}", state=state, curve="copy-up", x=size),),
        _run(figure, prefix, size, count), _build(prefix, size, count), size=total, temporary=total, needs=_NEEDS,
        limit=60 + total / (20 * MiB), rounds=rounds, seconds=0.1 + total / (500 * MiB), group=group,
    )  # fmt: skip


# -- other kinds of files ---------------------------------------------------------------------------------------------

_XATTRS = 40
_VALUE = b"v" * 60
_SPOT = 4096


def _build_xattrs(layers: Layers) -> None:
    for number in range(_MANY):
        path = layers.path(f"copyup-xattrs/f{number}", number)
        path.write_bytes(bytes(4096))
        with contextlib.suppress(OSError):  # a backing without them; the workload says so
            for index in range(_XATTRS):
                os.setxattr(path, f"user.bench.{index}", _VALUE)


def _xattrs(place: Place) -> Figures:
    names = [place.path(f"copyup-xattrs/f{number}") for number in range(_MANY)]
    if not os.listxattr(names[0]):
        raise MeasurementError("unsupported", "no user's extended attributes here")
    sample = time_each(place, lambda n: _append(names[n]), count=_MANY)
    for name in names:
        kept = [key for key in os.listxattr(name) if key.startswith("user.bench.")]
        expect(
            len(kept) == _XATTRS, f"{len(kept)} of {_XATTRS} extended attributes are left after the copy-up"
        )
        expect(os.getxattr(name, kept[-1]) == _VALUE, "an extended attribute has changed in the copy-up")
    return {"copy-up-xattrs": sample}


def _deep_name(number: int) -> str:
    return f"copyup-deep/c{number}/" + "/".join(f"l{level}" for level in range(10)) + "/file"


def _build_deep(layers: Layers) -> None:
    for number in range(_MANY):
        layers.write(_deep_name(number), bytes(4096), number)


def _deep(place: Place) -> Figures:
    names = [_deep_name(number) for number in range(_MANY)]
    for name in names:
        os.stat(place.path(name))
    sample = time_each(place, lambda n: _append(place.path(names[n])), count=_MANY)
    for name in names:
        _expect_copied(place, name, 4096)
    return {"copy-up-deep": sample}


def _build_sparse(name: str, size: int, spots: int) -> Build:
    def build(layers: Layers) -> None:
        with layers.path(name, 1).open("wb") as stream:
            stream.truncate(size)
            for number in range(spots):
                stream.seek(size // spots * number)
                stream.write(pattern(number, _SPOT))

    return build


def _sparse(figure: str, name: str, size: int, spots: int) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        path = place.path(name)
        _read_spots(path, size, spots)
        sample = time_each(place, lambda _: _append(path), count=1)
        _expect_copied(place, name, size)
        _read_spots(path, size, spots)
        blocks = os.stat(place.upper / name).st_blocks * 512
        os.unlink(path)
        return {figure: replace(sample, details={"allocated": float(blocks)})}

    return run


def _read_spots(path: str, size: int, spots: int) -> None:
    with open(path, "rb", buffering=0) as stream:
        for number in range(spots):
            stream.seek(size // spots * number)
            expect(stream.read(_SPOT) == pattern(number, _SPOT), f"{path} has a wrong content")


def _sparse_file(figure: str, size: int, suite: str, rounds: int = 0) -> Workload:
    name = f"copyup-sparse/{figure}"
    note = f"; {rounds} rounds at most" if rounds else ""
    title = f"first write to a lower file of {size_text(size)}, sparse"
    return Workload(
        figure, suite, (Figure(figure, title, state=f"64 pages of data{note}"),),
        _sparse(figure, name, size, 64), _build_sparse(name, size, 64), size=MiB, temporary=size, needs=_NEEDS,
        limit=60 + size / (20 * MiB), rounds=rounds, seconds=0.2 + size / (2 << 30), group=_GROUP,
    )  # fmt: skip


def _few(name: str, title: str, state: str, run: Callable[[Place], Figures], build: Build) -> Workload:
    return Workload(
        name, "copyup", (Figure(name, title, state=state),), run, build, size=4 * MiB, needs=_NEEDS
    )


WORKLOADS = (
    copy_up(4096, 24),
    copy_up(64 << 10, 24),
    copy_up(MiB, 8),
    copy_up(16 * MiB, 3),
    copy_up(256 * MiB, 1, rounds=3),
    _few(
        "copy-up-xattrs",
        f"first write to a lower file with {_XATTRS} extended attributes",
        "4 KiB",
        _xattrs,
        _build_xattrs,
    ),
    _few("copy-up-deep", "first write to a lower file in ten new directories", "4 KiB", _deep, _build_deep),
    _sparse_file("copy-up-sparse", 256 * MiB, "copyup"),
)
LARGE = (
    copy_up(1 << 30, 1, "large", rounds=1),
    _sparse_file("copy-up-4GiB-sparse", 4 << 30, "large", rounds=2),
)
