# SPDX-License-Identifier: Apache-2.0
"""Threads and programs for tasks of the event loop, and what to do when none can be started.

That is so at RLIMIT_NPROC, a control group's pids.max, or without memory. Then the thread that serves does what it can by itself,
and what would wait for its own answers waits for better times.
"""

from __future__ import annotations

import errno
import logging
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import trio

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds between two attempts to get a thread, and between two warnings that there is none.
_PAUSE = 0.1
_SILENCE = 60.0

_warned = -_SILENCE


class NoThread(Exception):
    """No thread can be started now."""


def warn() -> None:
    """Tell the operator that no thread can be started, at most once a minute."""
    global _warned
    now = time.monotonic()
    if now - _warned >= _SILENCE:
        _warned = now
        log.warning("no thread can be started (a limit of processes?): long requests hold up the others")


async def attempt(
    function: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None, abandon_on_cancel: bool = False
) -> T:
    """Call `function` in a thread and return what it returns; NoThread if it was not called."""
    begun = False

    def call() -> T:
        nonlocal begun
        begun = True
        return function()

    try:
        return await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    except RuntimeError:
        if begun:
            raise
        warn()
        raise NoThread from None


async def run(function: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
    """Call `function` in a thread, or in this one if there is none."""
    try:
        return await attempt(function, abandon_on_cancel=abandon_on_cancel)
    except NoThread:
        return function()


async def run_elsewhere(
    function: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None, abandon_on_cancel: bool = False
) -> T:
    """Call `function` in a thread as soon as there is one: it waits for what this one does, or may."""
    while True:
        try:
            return await attempt(function, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
        except NoThread:
            await trio.sleep(_PAUSE)


async def retry(start: Callable[[], T]) -> T:
    """Call `start`, which needs a process or descriptors, until they can be had; other errors are raised."""
    while True:
        try:
            return start()
        except OSError as error:
            await _wait_for_better_times(error)


async def _wait_for_better_times(error: OSError) -> None:
    if error.errno not in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        raise error
    warn()
    await trio.sleep(_PAUSE)


async def run_program(
    command: Callable[[], list[str]], *, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the program that `command` names, in a thread, as soon as a process can be had; OSError if there is no such program.

    It may lie in the union itself, or be looked for there.
    """

    def start() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command(),
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            preexec_fn=_plain_fork,
        )

    while True:
        try:
            return await run_elsewhere(start, abandon_on_cancel=True)
        except OSError as error:
            await _wait_for_better_times(error)


def _plain_fork() -> None:
    """Do nothing: what is called before exec(2) keeps subprocess from vfork(2), which holds the whole process up until then."""
