# SPDX-License-Identifier: Apache-2.0
"""Names and attributes: stat, absent names, open-read-close, create, directories; cold and warm."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from bench.machine.client import Figures, Place, expect, time_each
from bench.machine.layers import Layers, pattern
from bench.targets.model import WHITEOUT
from bench.workloads.model import Figure, Workload

FILES = 500
FILE_SIZE = 4096
_BOX = 0.15  # seconds for what is repeated


def file_name(number: int) -> str:
    """Return the name of one of the small files."""
    return f"files/d{number % 10}/f{number:03d}"


def build_files(layers: Layers) -> None:
    """Make 500 files of 4 KiB in 10 directories, each directory in every layer."""
    for number in range(FILES):
        layers.write(file_name(number), pattern(number, FILE_SIZE), number // 10)


def _stat(place: Place) -> Figures:
    names = [place.path(file_name(number)) for number in range(FILES)]
    place.drop_dentries()
    sizes = 0

    def stat(number: int) -> None:
        nonlocal sizes
        sizes += os.stat(names[number % FILES]).st_size

    cold = time_each(place, stat, count=FILES)
    warm = time_each(place, stat, seconds=_BOX)
    expect(sizes == (cold.operations + warm.operations) * FILE_SIZE, "stat gave wrong sizes")
    return {"stat-cold": cold, "stat-warm": warm}


def _negative(place: Place) -> Figures:
    place.drop_dentries()
    names = [place.path(f"{file_name(number)}.absent") for number in range(FILES)]
    found = 0

    def look(number: int) -> None:
        nonlocal found
        found += os.access(names[number % FILES], os.F_OK)

    cold = time_each(place, look, count=FILES)
    warm = time_each(place, look, seconds=_BOX)
    present = os.access(place.path(file_name(0)), os.F_OK)
    expect(not found and present, "an absent name was found, or a present one not")
    return {"negative-lookup": cold, "negative-lookup-warm": warm}


def read_file(path: str) -> bytes:
    """Open, read up to 64 KiB and close, without Python's buffering."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def write_file(path: str, data: bytes) -> None:
    """Create exclusively, write and close."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _open_read(place: Place) -> Figures:
    count = 100
    names = [place.path(file_name(number)) for number in range(count)]
    for number, name in enumerate(names):
        expect(read_file(name) == pattern(number, FILE_SIZE), f"{name} has a wrong content")
    length = 0

    def operation(number: int) -> None:
        nonlocal length
        length += len(read_file(names[number % count]))

    warm = time_each(place, operation, seconds=_BOX)
    place.drop_dentries()
    cold = time_each(place, operation, count=count)
    expect(length == (warm.operations + cold.operations) * FILE_SIZE, "a file was read short")
    return {"open-read-close": warm, "open-read-close-cold": cold}


def _create(place: Place) -> Figures:
    os.mkdir(place.path("created"))
    data = pattern(1, FILE_SIZE)
    sample = time_each(place, lambda n: write_file(place.path(f"created/{n}"), data), seconds=_BOX)
    last = f"created/{sample.operations - 1}"
    expect(len(os.listdir(place.path("created"))) == sample.operations, "created files are missing")
    expect(read_file(place.path(last)) == data, f"{last} has a wrong content")
    fd = os.open(place.path(last), os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    expect((place.upper / last).read_bytes() == data, f"{last} has a wrong content in the branch")
    return {"create-write-close": sample}


@dataclass(frozen=True, slots=True)
class _Change:
    """An operation on names: `prepare` makes what it works on, `leaves` says whether the name x or y is there after it."""

    name: str
    operation: Callable[[str], object]
    prepare: Callable[[str], object] | None
    leaves: str


def _touch(path: str) -> None:
    write_file(path, b"x")


def _rename_away(path: str) -> None:
    os.rename(path, path[:-1] + "y")


_CHANGES = (
    _Change("create-write-close", lambda path: write_file(path, bytes(FILE_SIZE)), None, "x"),
    _Change("mkdir", os.mkdir, None, "x"),
    _Change("unlink", os.unlink, _touch, ""),
    _Change("rename", _rename_away, _touch, "y"),
)


def _run_change(change: _Change, count: int, *, cold: bool) -> Callable[[Place], Figures]:
    """Warm: in one directory. Cold: each in a directory of its own, when the kernel has forgotten all of them."""
    figure = f"{change.name}-cold" if cold else change.name

    def run(place: Place) -> Figures:
        directories = [f"{figure}/{number if cold else 0}" for number in range(count)]
        names = [place.path(f"{d}/{n}x") for n, d in enumerate(directories)]
        for directory in dict.fromkeys(directories):
            os.makedirs(place.path(directory))
        for name in names if change.prepare else ():
            assert change.prepare is not None
            change.prepare(name)
        if cold:
            place.drop_dentries()
        sample = time_each(place, lambda number: change.operation(names[number]), count=count)
        for root in (place.mount, place.upper):
            left = [
                n
                for d in dict.fromkeys(directories)
                for n in os.listdir(root / d)
                if not n.startswith(".wh.")
            ]
            wanted = [f"{n}{change.leaves}" for n in range(count)] if change.leaves else []
            expect(sorted(left) == sorted(wanted), f"{root / figure} has wrong names after {change.name}")
        return {figure: sample}

    return run


def _change(index: int, title: str, *, cold: bool) -> Workload:
    change = _CHANGES[index]
    name = f"{change.name}-cold" if cold else change.name
    state = "each in a directory not yet known" if cold else "warm"
    return Workload(
        name, "metadata", _figure(name, title, state), _run_change(change, 100 if cold else 300, cold=cold)
    )


def _build_doomed(layers: Layers) -> None:
    for number in range(300):
        layers.write(f"doomed/f{number}", pattern(number, 64), number)


def _unlink_lower(place: Place) -> Figures:
    sample = time_each(place, lambda n: os.unlink(place.path(f"doomed/f{n}")), count=300)
    expect(not os.listdir(place.path("doomed")), "removed files are still there")
    return {"unlink-lower": sample}


def _rename(place: Place) -> Figures:
    os.mkdir(place.path("moving"))
    for number in range(300):
        write_file(place.path(f"moving/{number}"), b"x")
    sample = time_each(
        place, lambda n: os.rename(place.path(f"moving/{n}"), place.path(f"moving/to{n}")), count=300
    )
    expect(
        sum(name.startswith("to") for name in os.listdir(place.path("moving"))) == 300, "renames are missing"
    )
    return {"rename": sample}


def _deep_name(number: int) -> str:
    return "deep/" + "/".join(f"l{level}" for level in range(20)) + f"/f{number}"


def _build_deep(layers: Layers) -> None:
    for number in range(100):
        layers.write(_deep_name(number), pattern(number, 16), number)


def _deep(place: Place) -> Figures:
    place.drop_dentries()
    names = [place.path(_deep_name(number)) for number in range(100)]
    sample = time_each(place, lambda n: os.stat(names[n]), count=100)
    return {"stat-deep": sample}


def _figure(name: str, title: str, state: str = "") -> tuple[Figure, ...]:
    return (Figure(name, title, "s", state=state),)


WORKLOADS = (
    Workload("stat", "metadata", (Figure("stat-cold", "stat, first time", state="dentries dropped"),
             Figure("stat-warm", "stat, again", state="warm")), _stat, build_files),
    Workload("negative", "metadata", (Figure("negative-lookup", "look up an absent name", state="each name new"),
             Figure("negative-lookup-warm", "look up an absent name, again", state="warm")), _negative, build_files),
    Workload("open-read", "metadata", (
             Figure("open-read-close", "open, read 4 KiB, close", state="warm, lower layers"),
             Figure("open-read-close-cold", "open, read 4 KiB, close", state="dentries dropped, lower layers")),
             _open_read, build_files),
    Workload("create", "metadata", _figure("create-write-close", "create, write 4 KiB, close", "warm"), _create),
    _change(0, "create, write 4 KiB, close", cold=True),
    _change(1, "mkdir", cold=False),
    _change(1, "mkdir", cold=True),
    _change(2, "unlink a new file", cold=False),
    _change(2, "unlink a new file", cold=True),
    _change(3, "rename a new file", cold=False),
    _change(3, "rename a new file", cold=True),
    Workload("deep", "metadata", _figure("stat-deep", "stat 20 directories deep", "dentries dropped"), _deep, _build_deep),
    Workload("unlink-lower", "metadata", _figure("unlink-lower", "unlink a file of a lower layer"), _unlink_lower,
             _build_doomed, needs=frozenset({WHITEOUT})),
)  # fmt: skip
