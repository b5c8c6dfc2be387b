# SPDX-License-Identifier: Apache-2.0
"""What the server costs: processor time for a fixed mix of operations, and memory before and after the kernel forgets."""

from __future__ import annotations

import os

from bench.client import Figures, Place, Sample, expect
from bench.layers import pattern
from bench.workloads.metadata import FILE_SIZE, FILES, build_files, file_name, read_file, write_file
from bench.workloads.model import Figure, MiB, Workload

_CREATES = 150


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
    if place.server is None:
        return {}
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


WORKLOADS = (
    Workload("cost", "cost", (
        Figure("server-cpu", "server's CPU time for 1,000 operations", state="stat, open, create, unlink"),
        Figure("server-memory", "server's resident memory", "B", state="after that")), _cost, build_files, size=8 * MiB),
)  # fmt: skip
