# SPDX-License-Identifier: Apache-2.0
"""A thread that serves in place of another one: never both, and nothing is lost when it does not get a processor."""

import os
import subprocess
import threading

import pytest

from unionfs.session.waiting.stand_in import StandIn


def test_stand_in_serves_alone_with_its_own_policy() -> None:
    """While it serves the first thread waits; only the stand-in goes behind everybody else."""
    served: list[tuple[int, int]] = []
    stand_in = StandIn(lambda: served.append((threading.get_ident(), os.sched_getscheduler(0))))
    turns = sum(stand_in.take_over() for _ in range(50))
    stand_in.close()
    assert len(served) == turns
    assert threading.get_ident() not in {thread for thread, _ in served}
    assert {policy for _, policy in served} <= {os.SCHED_IDLE}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_turn_without_a_processor_is_taken_back() -> None:
    """Beside programs that use every processor a turn is served once or not at all, and the first thread knows which."""
    served = 0

    def serve() -> None:
        nonlocal served
        served += 1

    loops = [
        subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    try:
        stand_in = StandIn(serve)
        turns = sum(stand_in.take_over() for _ in range(100))
        assert served == turns
        stand_in.close()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_error_of_the_stand_in_reaches_the_first_thread() -> None:
    """An exception ends neither the thread silently nor the wait for it."""

    def serve() -> None:
        raise ValueError("told")

    stand_in = StandIn(serve)
    with pytest.raises(ValueError, match="told"):
        while not stand_in.take_over():  # on a busy machine it may not begin at once
            pass
    stand_in.close()


def test_closed_stand_in_serves_no_more() -> None:
    """After close a turn is refused."""
    stand_in = StandIn(lambda: None)
    stand_in.take_over()
    stand_in.close()
    assert not stand_in.take_over()
