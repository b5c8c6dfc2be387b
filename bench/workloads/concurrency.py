# SPDX-License-Identifier: Apache-2.0
"""Several clients at once, and what one of them waits while another is busy."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

from bench.client import Figures, MeasurementError, Place, Sample, expect, quantiles
from bench.layers import pattern
from bench.workloads.metadata import FILE_SIZE, FILES, build_files, file_name, read_file, write_file
from bench.workloads.model import Figure, Workload
from bench.workloads.realwork.tree import tarball

_SECONDS = 0.4


def _client(place: Place, directory: str, number: int) -> int:
    """Stat, read, create and remove until the time is up; return the operations done."""
    os.mkdir(directory)
    data = pattern(number, 1024)
    end = time.perf_counter() + _SECONDS
    turn = 0
    while time.perf_counter() < end:
        name = place.path(file_name((turn * 7 + number * 31) % FILES))
        expect(os.stat(name).st_size == FILE_SIZE and len(read_file(name)) == FILE_SIZE, "a file is short")
        write_file(f"{directory}/{turn}", data)
        os.unlink(f"{directory}/{turn}")
        turn += 1
    return turn * 4


def _fork_client(place: Place, directory: str, number: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, str(_client(place, directory, number)).encode())
            os._exit(0)
        except BaseException as error:
            os.write(writing, f"!{error}".encode())
            os._exit(1)
    os.close(writing)
    return pid, reading


def _operations_of(pid: int, reading: int) -> int:
    with open(reading, "rb") as stream:
        said = stream.read().decode(errors="replace")
    os.waitpid(pid, 0)
    if not said.isdigit():
        raise MeasurementError("failed", f"a client failed: {said.removeprefix('!') or 'it died'}")
    return int(said)


def _several(clients: int, figure: str) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        with place.timed() as timing:
            started = [
                _fork_client(place, place.path(f"{figure}.{number}"), number) for number in range(clients)
            ]
            total = sum(_operations_of(*client) for client in started)
        return {figure: Sample(total / timing.seconds, total, timing.server_cpu)}

    return run


def _clients(count: int) -> Workload:
    figure = f"clients-{count}"
    shown = Figure(figure, f"operations a second, {count} clients", "op/s", True, "warm", "clients", count)
    return Workload(figure, "concurrency", (shown,), _several(count, figure), build_files)


def _beside_untar(place: Place) -> Figures:
    archive = tarball(place.scratch, 4000)
    names = [place.path(file_name(number)) for number in range(100)]
    for name in names:
        os.stat(name)
    busy = subprocess.Popen(
        ["tar", "xf", archive, "-C", place.mount, "--no-same-owner"], stderr=subprocess.PIPE
    )
    latencies: list[float] = []
    while busy.poll() is None:
        start = time.perf_counter()
        expect(len(read_file(names[len(latencies) % 100])) == FILE_SIZE, "a file is short")
        latencies.append(time.perf_counter() - start)
        time.sleep(0.002)
    _, said = busy.communicate()
    expect(busy.returncode == 0, f"tar failed: {said.decode(errors='replace')[:100]}")
    found = quantiles(latencies)
    return {
        "latency-beside-untar": Sample(
            sorted(latencies)[int(0.95 * len(latencies))], len(latencies), None, found
        )
    }


WORKLOADS = (
    *(_clients(count) for count in (1, 2, 4, 8, 16)),
    Workload("beside-untar", "concurrency",
             (Figure("latency-beside-untar", "95th percentile of open-read-close beside an untar", state="warm"),),
             _beside_untar, build_files, size=96 << 20, limit=120),
)  # fmt: skip
