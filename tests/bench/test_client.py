# SPDX-License-Identifier: Apache-2.0
"""One measurement in a process of its own: results come back, failures have a kind, nothing is left running."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.machine import syscalls
from bench.machine.client import Figures, MeasurementError, Place, Sample, call, expect, quantiles, time_each


def test_call_result_comes_from_another_process() -> None:
    """The client is not this process."""
    found = call(lambda: {"pid": Sample(os.getpid())}, 10)
    assert found["pid"].value != os.getpid()


def _wrong() -> Figures:
    expect(False, "two and two are five")
    return {}


def _error() -> Figures:
    os.stat("/nonexistent")
    return {}


def _bug() -> Figures:
    raise KeyError("bug")


def _die() -> Figures:
    os._exit(1)


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (_wrong, "wrong", "two and two are five"),
        (_error, "failed", "No such file or directory: /nonexistent"),
        (_bug, "failed", "KeyError"),
        (_die, "failed", "died"),
    ],
)
def test_call_failure_has_kind_and_message(function: Callable[[], Figures], kind: str, message: str) -> None:
    """A wrong result, a system error, a bug and a death are told apart."""
    with pytest.raises(MeasurementError, match=message) as caught:
        call(function, 10)
    assert caught.value.kind == kind


def test_call_hanging_client_is_ended() -> None:
    """After its limit the client and what it started are gone."""

    def hang() -> Figures:
        time.sleep(60)
        return {}

    started = time.monotonic()
    with pytest.raises(MeasurementError) as caught:
        call(hang, 0.2)
    assert caught.value.kind == "timeout"
    assert time.monotonic() - started < 30


def test_time_each_counts_operations_and_slowdown_is_inside(tmp_path: Path) -> None:
    """An artificial slowdown of 100 % at least doubles the time that the block itself took."""
    place = Place(tmp_path, tmp_path, tmp_path, slowdown=1.0)
    sample = time_each(place, lambda _: time.sleep(0.002), count=5)
    assert sample.operations == 5
    assert sample.value >= 2 * 0.002
    assert len(sample.latency) == len(quantiles([1.0]))


def test_process_cpu_seconds_grows_and_dead_process_is_an_error() -> None:
    """The clock of a process runs while it works; a process that is gone has none."""
    before = syscalls.process_cpu_seconds(os.getpid())
    sum(range(100_000))
    assert syscalls.process_cpu_seconds(os.getpid()) > before
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(ProcessLookupError):
        syscalls.process_cpu_seconds(child)
