# SPDX-License-Identifier: Apache-2.0
"""How long containers take to start, by the wall clock: until their program runs, and until the command has returned.

The program is `true`; that it runs is told by `date` in its place, which reads the same clock inside the container.
Containers start one after the other, from an image that is cached, with no network.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO

from bench.machine import cgroups, syscalls
from bench.machine.client import Figures, MeasurementError, Place, Sample, expect, quantiles
from bench.machine.launcher import FEATURES, PLAIN, RUNTIME, UNION, Container, Launcher
from bench.runtimes.rootfs import MARKER, build_rootfs, marker
from bench.workloads.model import Figure, Workload

_SECONDS = 1.0  # for each of the two times, but at least
_LEAST = 5
_MOST = 40


def enter_client() -> None:
    """Have what this client starts charged to a group of its own, and come to it when its parent has ended."""
    cgroups.enter(f"client-{os.getpid()}")
    syscalls.become_subreaper()


def bury(pids: Iterable[int]) -> None:
    """Take leave of those of `pids` that have ended and are ours."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def launcher_of(place: Place) -> Launcher:
    """Return the launcher of a runtime's place."""
    assert place.launcher is not None
    return place.launcher


@contextlib.contextmanager
def error_log(place: Place) -> Iterator[IO[bytes]]:
    """Open the file that commands write their errors to."""
    with (place.upper / "errors").open("w+b") as stream:
        yield stream


def attempt(container: Container, errors: IO[bytes], output: int | IO[bytes] = subprocess.DEVNULL) -> bytes:
    """Run a container's command to its end and return what it printed; MeasurementError when it fails."""
    process = container.start(output, errors)
    printed = process.stdout.read() if process.stdout else b""
    status = process.wait()
    container.end()
    if status:
        raise MeasurementError("failed", f"{_program(container)} ended with {status}{last_line(errors)}")
    return printed


def _program(container: Container) -> str:
    return os.path.basename(container.command[0])


def last_line(errors: IO[bytes]) -> str:
    """Return the last line of a command's errors, to be put behind a message."""
    errors.seek(0)
    lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""


def check_isolation(place: Place, kind: str, errors: IO[bytes]) -> None:
    """A container has the image as its root, a process namespace of its own, and leaves the image as it was."""
    launcher = launcher_of(place)
    expect(_ask(launcher, "root", kind, ["cat", f"/{MARKER}"], errors) == marker(), "its root is another one")
    for space in ("pid", "mnt", "net"):
        inside = _ask(launcher, space, kind, ["readlink", f"/proc/self/ns/{space}"], errors).decode().strip()
        expect(inside.startswith(f"{space}:"), f"/proc/self/ns/{space} cannot be read inside")
        expect(inside != os.readlink(f"/proc/self/ns/{space}"), f"it shares our {space} namespace")
    if kind == UNION:
        attempt(launcher.container(f"{kind}-write", kind, ["touch", "/written"]), errors)
        expect(not (place.mount / "written").exists(), "it wrote into the image")


def _ask(launcher: Launcher, name: str, kind: str, arguments: list[str], errors: IO[bytes]) -> bytes:
    return attempt(launcher.container(f"{kind}-{name}", kind, arguments), errors, subprocess.PIPE)


def _start(kind: str) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        enter_client()
        launcher = launcher_of(place)
        with error_log(place) as errors:
            if launcher.isolates:
                check_isolation(place, kind, errors)  # which also warms everything up
            exits = list(_repeat(lambda n: _until_exit(launcher, kind, n, errors)))
            executions = list(_repeat(lambda n: _until_exec(launcher, kind, n, errors)))
        return {
            f"start-exec-{kind}": _sample(executions, place.slowdown),
            f"start-exit-{kind}": _sample(exits, place.slowdown),
        }

    return run


def _repeat(measure: Callable[[int], float]) -> Iterator[float]:
    begin = time.monotonic()
    for number in range(_MOST):
        if number >= _LEAST and time.monotonic() - begin > _SECONDS:
            return
        yield measure(number)


def _until_exit(launcher: Launcher, kind: str, number: int, errors: IO[bytes]) -> float:
    container = launcher.container(f"{kind}-exit{number}", kind, ["true"])
    start = time.perf_counter()
    attempt(container, errors)
    return time.perf_counter() - start


def _until_exec(launcher: Launcher, kind: str, number: int, errors: IO[bytes]) -> float:
    container = launcher.container(f"{kind}-exec{number}", kind, ["date", "+%s%N"])
    start = time.time_ns()
    said = attempt(container, errors, subprocess.PIPE).strip()
    end = time.time_ns()
    expect(said.isdigit() and start < int(said) < end, "the container's clock is not ours")
    return (int(said) - start) / 1e9


def _sample(seconds: Sequence[float], slowdown: float) -> Sample:
    value = statistics.median(seconds) * (1 + slowdown)
    return Sample(value, len(seconds), latency=quantiles(seconds))


_ROOTS = {PLAIN: "on a plain directory", UNION: "with a writable layer of its own"}


def _workload(kind: str) -> Workload:
    figures = (
        Figure(f"start-exec-{kind}", "start to exec", state=_ROOTS[kind]),
        Figure(f"start-exit-{kind}", "start to exit of true", state=_ROOTS[kind]),
    )
    return Workload(
        f"start-{kind}", "containers", figures, _start(kind), build_rootfs, layers=1, group="rootfs",
        needs=frozenset({FEATURES[kind]}), limit=120, kind=RUNTIME, seconds=3,
    )  # fmt: skip


WORKLOADS = tuple(_workload(kind) for kind in (PLAIN, UNION))
