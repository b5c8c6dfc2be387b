# SPDX-License-Identifier: Apache-2.0
"""What the server costs: processor time, memory, descriptors, idle time, and how many requests the kernel sends it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from bench.machine.client import Figures, MeasurementError, Place, Sample, expect
from bench.machine.layers import pattern
from bench.targets.model import SERVER
from bench.workloads import listing
from bench.workloads.metadata import FILE_SIZE, FILES, build_files, file_name, read_file, write_file
from bench.workloads.model import Figure, MiB, Workload

_CREATES = 150
_IDLE_SECONDS = 10.0
_OPENED = 200
_NEEDS = frozenset({SERVER})


def _server(place: Place) -> int:
    assert place.server is not None
    return place.server


def _mix(place: Place) -> int:
    """Do the mix and return the number of operations."""
    for number in range(FILES):
        os.stat(place.path(file_name(number)))
    length = sum(len(read_file(place.path(file_name(number)))) for number in range(0, FILES, 5))
    expect(length == FILES // 5 * FILE_SIZE, "a file was read short")
    data = pattern(3, FILE_SIZE)
    for number in range(_CREATES):
        write_file(place.path(f"cost/{number}"), data)
    for number in range(_CREATES):
        os.unlink(place.path(f"cost/{number}"))
    expect(not os.listdir(place.path("cost")), "removed files are still there")
    return FILES + FILES // 5 + 2 * _CREATES + 1


def _cost(place: Place) -> Figures:
    os.mkdir(place.path("cost"))
    place.drop_dentries()
    with place.timed() as timing:
        operations = _mix(place)
    memory = place.rss_bytes()
    requests = operations / 1000
    assert timing.server_cpu is not None
    return {
        "server-cpu": Sample(timing.server_cpu / requests, operations, timing.server_cpu),
        "server-memory": Sample(memory),
    }


# -- requests ---------------------------------------------------------------------------------------------------------


def _stat_all(place: Place) -> int:
    for number in range(FILES):
        os.stat(place.path(file_name(number)))
    return FILES


def _read_all(place: Place) -> int:
    for number in range(FILES):
        expect(len(read_file(place.path(file_name(number)))) == FILE_SIZE, "a file was read short")
    return FILES


def _create_all(place: Place) -> int:
    data = pattern(3, FILE_SIZE)
    for number in range(_CREATES):
        write_file(place.path(f"counted/{number}"), data)
    return _CREATES


def _list_all(place: Place) -> int:
    with os.scandir(place.path("counted")) as entries:
        sizes = [entry.stat().st_size for entry in entries]
    expect(sizes == [FILE_SIZE] * _CREATES, "a wrong list")
    return _CREATES


def _unlink_all(place: Place) -> int:
    for number in range(_CREATES):
        os.unlink(place.path(f"counted/{number}"))
    return _CREATES


_COUNTED: tuple[tuple[str, str, str, bool, Callable[[Place], int]], ...] = (
    ("stat", "a stat", "dentries dropped", True, _stat_all),
    ("read", "an open-read-close", "warm", False, _read_all),
    ("create", "a create-write-close", "warm", False, _create_all),
    ("list", "an entry of ls -l", "dentries dropped", True, _list_all),
    ("unlink", "an unlink", "warm", False, _unlink_all),
)


def _requests(place: Place) -> Figures:
    counter = place.counter
    if counter is None or not counter.supported:
        raise MeasurementError(
            "unsupported", "this kernel does not count FUSE requests (fuse_request_send, Linux 6.11)"
        )
    os.mkdir(place.path("counted"))
    _read_all(place)
    found: Figures = {}
    for name, _, _, cold, operate in _COUNTED:
        if cold:
            place.drop_dentries()
        before = counter.read()
        operations = operate(place)
        place.settle()  # a release comes after the close
        after = counter.read()
        kinds = {
            kind: float(count - before.get(kind, 0))
            for kind, count in after.items()
            if count > before.get(kind, 0)
        }
        found[f"requests-{name}"] = Sample(sum(kinds.values()) / operations, operations, details=kinds)
    return found


# -- memory, descriptors, idleness ------------------------------------------------------------------------------------


def _memory(place: Place) -> Figures:
    place.settle()
    start = place.rss_bytes()
    walked = 0
    for directory, _, names in os.walk(place.path("tree")):
        walked += sum(os.stat(os.path.join(directory, name)).st_size == 0 for name in names)
    expect(walked == listing.TREE_FILES, f"{walked} of {listing.TREE_FILES} files were found")
    full = place.rss_bytes()
    place.drop_dentries()
    end = place.rss_bytes()
    return {
        "memory-start": Sample(start),
        "memory-inode": Sample(max(full - start, 0) / walked, walked),
        "memory-forgotten": Sample(end),
        "memory-left": Sample(end / start),
    }


def _descriptors(place: Place) -> Figures:
    directory = f"/proc/{_server(place)}/fd"
    place.drop_dentries()
    idle = len(os.listdir(directory))
    _stat_all(place)
    place.settle()
    cached = len(os.listdir(directory))
    fds = [os.open(place.path(file_name(number)), os.O_RDONLY) for number in range(_OPENED)]
    opened = len(os.listdir(directory))
    for number, fd in enumerate(fds):
        expect(os.read(fd, FILE_SIZE) == pattern(number, FILE_SIZE), "a file has a wrong content")
        os.close(fd)
    return {"fds-idle": Sample(idle), "fds-cached": Sample(cached), "fds-open": Sample(opened)}


def _idle(place: Place) -> Figures:
    place.settle()
    with place.timed() as timing:
        time.sleep(_IDLE_SECONDS)
    assert timing.server_cpu is not None
    return {"idle-cpu": Sample(100 * timing.server_cpu / timing.seconds, 1, timing.server_cpu)}


_MEMORY = (
    Figure("memory-start", "server's resident memory, fresh", "B", state="3 rounds at most"),
    Figure(
        "memory-inode", "server's memory for each inode cached", "B", state=f"{listing.TREE_FILES:,} files"
    ),
    Figure("memory-forgotten", "server's resident memory when all is forgotten", "B"),
    Figure("memory-left", "that in parts of the fresh server's", "×"),
)
_FDS = (
    Figure("fds-idle", "server's open descriptors", "fds", state="idle"),
    Figure("fds-cached", "server's open descriptors", "fds", state=f"{FILES} files cached"),
    Figure("fds-open", "server's open descriptors", "fds", state=f"{_OPENED} files open"),
)
WORKLOADS = (
    Workload("cost", "cost", (
        Figure("server-cpu", "server's CPU time for 1,000 operations", state="stat, open, create, unlink"),
        Figure("server-memory", "server's resident memory", "B", state="after that")), _cost, build_files, size=8 * MiB,
        needs=_NEEDS),
    Workload("requests", "cost", tuple(Figure(f"requests-{name}", f"requests for {title}", "req", state=state)
             for name, title, state, *_ in _COUNTED), _requests, build_files, size=8 * MiB, counted=True, rounds=3,
             needs=_NEEDS),
    Workload("memory", "cost", _MEMORY, _memory, listing.build_tree, size=listing.TREE_FILES * 512, limit=180,
             group=listing.TREE_GROUP, fresh=True, rounds=3, needs=_NEEDS, seconds=4),
    Workload("descriptors", "cost", _FDS, _descriptors, build_files, size=8 * MiB, rounds=3, needs=_NEEDS),
    Workload("idle", "cost", (Figure("idle-cpu", "processor used while idle", "%", state="for 10 s; 3 rounds at most"),),
             _idle, together=True, rounds=3, needs=_NEEDS, fresh=True, seconds=_IDLE_SECONDS),
)  # fmt: skip
