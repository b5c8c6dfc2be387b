# SPDX-License-Identifier: Apache-2.0
"""Names and attributes: stat, absent names, open-read-close, create, directories; cold and warm."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

from bench.client import Figures, Place, Sample, expect, time_each
from bench.layers import Build, Layers, pattern
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
        found += os.access(names[number], os.F_OK)

    sample = time_each(place, look, count=FILES)
    expect(
        not found and os.access(place.path(file_name(0)), os.F_OK),
        "an absent name was found, or a present one not",
    )
    return {"negative-lookup": sample}


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

    sample = time_each(place, operation, seconds=_BOX)
    expect(length == sample.operations * FILE_SIZE, "a file was read short")
    return {"open-read-close": sample}


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


@cache  # listings of one size share their directory
def _build_entries(name: str, count: int) -> Build:
    def build(layers: Layers) -> None:
        directories = [layers.path(f"{name}/x", number).parent for number in range(len(layers.roots))]
        for number in range(count):
            os.mknod(directories[number % len(directories)] / f"entry{number:07d}")

    return build


def _list_long(
    figure: str, name: str, count: int, *, attributes: bool, cold: bool
) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        if cold:
            place.drop_dentries()
        else:
            _names(place, name, attributes)
        with place.timed() as timing:
            names = _names(place, name, attributes)
        expect(names == count, f"{names} of {count} entries were listed")
        return {figure: Sample(timing.seconds, count, timing.server_cpu)}

    return run


def _names(place: Place, name: str, attributes: bool) -> int:
    """List a directory, with the attributes of each entry if asked, and return how many different names it has."""
    with os.scandir(place.path(name)) as entries:
        if not attributes:
            return len({entry.name for entry in entries})
        return len({entry.name for entry in entries if entry.stat(follow_symlinks=False).st_size == 0})


def listing(count: int, *, suite: str = "metadata", attributes: bool = True, cold: bool = True) -> Workload:
    """Return the workload that lists a directory of `count` entries which all layers share."""
    kind = "list" if attributes else "readdir"
    state = "cold" if cold else "warm"
    figure = f"{kind}-{count}" if cold else f"{kind}-{count}-warm"
    name = f"entries{count}"
    title = f"{'ls -l' if attributes else 'readdir'} of {count:,} entries"
    return Workload(
        figure, suite, (Figure(figure, title, state=state, curve=f"{title.split(' of')[0]}, {state}", x=count),),
        _list_long(figure, name, count, attributes=attributes, cold=cold), _build_entries(name, count),
        size=count * 512, limit=60 + count / 2000,
    )  # fmt: skip


def _mkdir(place: Place) -> Figures:
    os.mkdir(place.path("dirs"))
    figures = {"mkdir": time_each(place, lambda n: os.mkdir(place.path(f"dirs/{n}")), count=300)}
    expect(len(os.listdir(place.path("dirs"))) == 300, "directories are missing")
    return figures


def _unlink(place: Place) -> Figures:
    os.mkdir(place.path("victims"))
    for number in range(300):
        write_file(place.path(f"victims/{number}"), b"x")
    sample = time_each(place, lambda n: os.unlink(place.path(f"victims/{n}")), count=300)
    expect(not os.listdir(place.path("victims")), "removed files are still there")
    return {"unlink": sample}


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
    Workload("negative", "metadata", _figure("negative-lookup", "look up an absent name", "each name new"),
             _negative, build_files),
    Workload("open-read", "metadata", _figure("open-read-close", "open, read 4 KiB, close", "warm, lower layers"),
             _open_read, build_files),
    Workload("create", "metadata", _figure("create-write-close", "create, write 4 KiB, close"), _create),
    listing(10_000),
    Workload("mkdir", "metadata", _figure("mkdir", "mkdir"), _mkdir),
    Workload("unlink", "metadata", _figure("unlink", "unlink a new file"), _unlink),
    Workload("rename", "metadata", _figure("rename", "rename a new file"), _rename),
    Workload("deep", "metadata", _figure("stat-deep", "stat 20 directories deep", "dentries dropped"), _deep, _build_deep),
    Workload("unlink-lower", "metadata", _figure("unlink-lower", "unlink a file of a lower layer"), _unlink_lower,
             _build_doomed, needs=frozenset({"whiteout"})),
    listing(10_000, cold=False),
    listing(10_000, attributes=False),
)  # fmt: skip
