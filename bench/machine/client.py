# SPDX-License-Identifier: Apache-2.0
"""One measurement, in a process of its own: what a workload sees (Place), what it returns (Sample), and its time limit.

A client of its own starts without cached state, and can be killed when a server hangs.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import syscalls
from bench.machine.launcher import Launcher
from bench.machine.requests import Counter

# The distribution that a sample keeps of its latencies.
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)


class MeasurementError(Exception):
    """A measurement that has no result: `kind` is wrong (a check failed), failed (an error), died or timeout."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(slots=True)
class Timing:
    """What one timed region took."""

    seconds: float = 0.0
    server_cpu: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one figure. `operations` is what the region did, `server_cpu` the seconds its server worked for it."""

    value: float
    operations: int = 1
    server_cpu: float | None = None
    latency: tuple[float, ...] = ()
    details: dict[str, float] = field(default_factory=dict)


def drop_caches() -> None:
    """Have the kernel forget unused names and attributes, those of file data excepted."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


@dataclass(frozen=True, slots=True)
class Place:
    """A mounted target as a workload sees it. `upper` is the writable branch behind it, looked into by checks only.

    `server` is the process behind it, `servers` those of all targets that are mounted now; `counter` counts the requests
    of workloads that ask for it.
    """

    mount: Path
    upper: Path
    scratch: Path
    server: int | None = None
    slowdown: float = 0.0
    servers: tuple[int, ...] = ()
    drop: Callable[[], None] = drop_caches
    counter: Counter | None = None
    launcher: Launcher | None = None

    def path(self, name: str) -> str:
        """Return a path in the mounted directory."""
        return os.path.join(self.mount, name)

    @contextmanager
    def timed(self) -> Iterator[Timing]:
        """Time the block; an artificial slowdown (which tests the method) is waited for inside."""
        timing = Timing()
        cpu = self._server_cpu()
        start = time.perf_counter()
        yield timing
        timing.seconds = time.perf_counter() - start
        if self.slowdown:
            while time.perf_counter() - start < timing.seconds * (1 + self.slowdown):
                pass
            timing.seconds = time.perf_counter() - start
        if cpu is not None:
            timing.server_cpu = (self._server_cpu() or cpu) - cpu

    def _server_cpu(self) -> float | None:
        return None if self.server is None else syscalls.process_cpu_seconds(self.server)

    def drop_dentries(self) -> None:
        """Make the kernel forget names and attributes (not file data), and wait until every server has heard of it."""
        self.drop()
        self.settle()

    def settle(self) -> None:
        """Wait until all servers have been idle for 10 ms, at most 20 s."""
        deadline = time.monotonic() + 20
        before = self._all_cpu()
        while self.servers and time.monotonic() < deadline:
            time.sleep(0.01)
            now = self._all_cpu()
            if now - before < 0.0005:
                return
            before = now

    def _all_cpu(self) -> float:
        return sum(syscalls.process_cpu_seconds(pid) for pid in self.servers if Path(f"/proc/{pid}").exists())

    def rss_bytes(self) -> int:
        """Return the resident memory of the server."""
        for line in Path(f"/proc/{self.server}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0


Figures = dict[str, Sample]  # by the name of the figure


def expect(condition: bool, message: str) -> None:
    """Fail the measurement when the filesystem gave a wrong answer."""
    if not condition:
        raise MeasurementError("wrong", message)


def quantiles(latencies: Sequence[float]) -> tuple[float, ...]:
    """Return the QUANTILES of latencies."""
    ordered = sorted(latencies)
    last = len(ordered) - 1
    return tuple(ordered[round(q * last)] for q in QUANTILES) if ordered else ()


def time_each(
    place: Place, operation: Callable[[int], object], *, seconds: float = 0.0, count: int = 0
) -> Sample:
    """Call `operation(0)`, `operation(1)`, … `count` times, or until `seconds` have passed; the value is seconds a call."""
    clock = time.perf_counter
    latencies: list[float] = []
    with place.timed() as timing:
        number = 0
        now = clock()
        end = now + seconds
        while number < count if count else now < end:
            operation(number)
            after = clock()
            latencies.append(after - now)
            now = after
            number += 1
    return Sample(timing.seconds / number, number, timing.server_cpu, quantiles(latencies))


class Client:
    """A function that runs in a new process, from now on; its result is had once."""

    def __init__(self, function: Callable[[], Figures], limit: float) -> None:
        self._limit = limit
        self._started = time.monotonic()
        self.seconds = 0.0
        self._reading, writing = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._reading)
            _be_child(function, writing)
        os.close(writing)
        os.setpgid(self._child, self._child)

    def result(self) -> Figures:
        """Wait for the result; MeasurementError when the function fails or exceeds its limit. Then nothing runs any more."""
        try:
            return _receive(self._reading, self._started + self._limit, self._limit)
        finally:
            os.close(self._reading)
            _end_group(self._child)
            self.seconds = time.monotonic() - self._started


def call(function: Callable[[], Figures], limit: float) -> Figures:
    """Call `function` in a new process and return its result; MeasurementError when it fails or exceeds `limit` seconds."""
    return Client(function, limit).result()


def _be_child(function: Callable[[], Figures], writing: int) -> None:
    """Run and send the result; never returns into the parent's code."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        answer: object = function()
    except MeasurementError as error:
        answer = (error.kind, error.message)
    except OSError as error:
        answer = ("failed", f"{error.strerror or error}: {_name(error)}".removesuffix(": "))
    except BaseException as error:
        answer = ("failed", f"{type(error).__name__}: {error}")
    with open(writing, "wb") as stream:
        pickle.dump(answer, stream)
    os._exit(0)


def _name(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""


def _receive(reading: int, deadline: float, limit: float) -> Figures:
    data = bytearray()
    while True:
        left = max(deadline - time.monotonic(), 0)
        if not select.select([reading], [], [], left)[0]:
            raise MeasurementError("timeout", f"no result after {limit:.0f} s")
        chunk = os.read(reading, 1 << 16)
        if not chunk:
            break
        data += chunk
    if not data:
        raise MeasurementError("failed", "the client process died")
    answer = pickle.loads(data)
    if isinstance(answer, tuple):
        raise MeasurementError(*answer)
    figures: Figures = answer
    return figures


def _end_group(child: int) -> None:
    """End the client and whatever it started."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended
    os.waitpid(child, 0)
