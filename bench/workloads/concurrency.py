# SPDX-License-Identifier: Apache-2.0
"""Several clients at once, on a mix of metadata and data; and, see `latency`, what one of them waits for another."""

from __future__ import annotations

import os
import pickle
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.machine.client import Figures, MeasurementError, Place, Sample, expect
from bench.machine.layers import Layers, pattern
from bench.workloads import latency
from bench.workloads.latency import percentiles
from bench.workloads.metadata import FILE_SIZE, read_file, write_file
from bench.workloads.model import Figure, MiB, Workload

_SECONDS = 0.5  # that all clients work
_TURN = 7  # operations
_SMALL = 400  # files
_BIG = "mix/big"
_BIG_SIZE = 16 * MiB
_READ = 64 << 10
_WRITTEN = 16 << 10


def _small_name(number: int) -> str:
    return f"mix/d{number % 10}/f{number}"


def _build(layers: Layers) -> None:
    for number in range(_SMALL):
        layers.write(_small_name(number), pattern(number, FILE_SIZE), number // 10)
    layers.write_big(_BIG, _BIG_SIZE, 2)


@dataclass(slots=True)
class _Mix:
    """What one client does, in a directory of its own, until the time is up: metadata and data in turns of 7 operations."""

    place: Place
    directory: Path
    number: int

    def run(self, wait_start: Callable[[], None]) -> list[float]:
        """Get ready, wait for the common start, work; return the seconds that each turn took."""
        self.directory.mkdir()
        rng = random.Random(self.number)
        data = pattern(self.number, _WRITTEN)
        big = os.open(self.place.path(_BIG), os.O_RDONLY)
        latencies: list[float] = []
        wait_start()
        now = time.perf_counter()
        end = now + _SECONDS
        while now < end:
            self._turn(rng, big, data)
            before, now = now, time.perf_counter()
            latencies.append(now - before)
        os.close(big)
        expect(not os.listdir(self.directory), "removed files are still there")
        return latencies

    def _turn(self, rng: random.Random, big: int, data: bytes) -> None:
        small = rng.randrange(_SMALL)
        name = self.place.path(_small_name(small))
        expect(os.stat(name).st_size == FILE_SIZE, f"{name} has a wrong size")
        expect(read_file(name) == pattern(small, FILE_SIZE), f"{name} has a wrong content")
        # Inside one chunk of 1 MiB, whose content begins anew (see write_big).
        chunk, start = rng.randrange(_BIG_SIZE // MiB) * MiB, rng.randrange(MiB // _READ) * _READ
        read = os.pread(big, _READ, chunk + start)
        expect(
            read == pattern(chunk, start + _READ)[start:], f"{_BIG} has a wrong content at {chunk + start}"
        )
        new, final = self.directory / "new", self.directory / "final"
        write_file(str(new), data)
        new.rename(final)
        expect(read_file(str(final)) == data, "what was written is not what is read")
        final.unlink()


class _Gate:
    """Holds back clients until all of them are there: pipes whose ends are closed, so that one which dies holds up nobody."""

    def __init__(self) -> None:
        self._arriving = os.pipe()
        self._leaving = os.pipe()

    def wait(self) -> None:
        """Arrive, in a client, and return when the gate opens."""
        os.close(self._leaving[1])
        os.close(self._arriving[1])
        os.read(self._leaving[0], 1)

    def wait_arrived(self) -> None:
        """Return when every client that was forked has arrived or ended."""
        os.close(self._arriving[1])
        os.read(self._arriving[0], 1)

    def open(self) -> None:
        """Let all go."""
        os.close(self._leaving[1])


def _fork(mix: _Mix, gate: _Gate) -> tuple[int, int]:
    """Start a client; return its pid and a pipe from it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        answer: list[float] | tuple[str, str] = mix.run(gate.wait)
    except MeasurementError as error:
        answer = (error.kind, error.message)
    except BaseException as error:
        answer = ("failed", f"{type(error).__name__}: {error}")
    with open(writing, "wb") as stream:
        pickle.dump(answer, stream)
    os._exit(0)


def _answer(pid: int, reading: int) -> list[float]:
    with open(reading, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    found = pickle.loads(data) if data else ("failed", "it died")
    if isinstance(found, tuple):
        raise MeasurementError(found[0], f"a client failed: {found[1]}")
    latencies: list[float] = found
    return latencies


def _several(clients: int, figure: str) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        gate = _Gate()
        mixes = [_Mix(place, place.mount / f"{figure}.{number}", number) for number in range(clients)]
        started = [_fork(mix, gate) for mix in mixes]
        gate.wait_arrived()
        with place.timed() as timing:
            gate.open()
            answers = [_answer(*client) for client in started]
        turns = [latency for latencies in answers for latency in latencies]
        done = len(turns) * _TURN
        slowest, fastest = (f(len(latencies) for latencies in answers) for f in (min, max))
        details: dict[str, float] = dict(zip(("p50", "p95", "p99", "max"), percentiles(turns), strict=True))
        # Turns of the client that did fewest, to those of the one that did most.
        details["fairness"] = slowest / fastest
        return {figure: Sample(done / timing.seconds, done, timing.server_cpu, details=details)}

    return run


def _clients(count: int) -> Workload:
    figure = f"clients-{count}"
    title = f"operations a second, {count} client{'s' if count > 1 else ''}"
    shown = Figure(figure, title, "op/s", True, "warm", "clients", count)
    return Workload(
        figure, "concurrency", (shown,), _several(count, figure), _build, size=24 * MiB, seconds=0.7
    )


WORKLOADS = (*(_clients(count) for count in (1, 2, 4, 8, 16)), *latency.WORKLOADS)
