# SPDX-License-Identifier: Apache-2.0
"""Run the benchmark as process 1 of its own pid and mount namespace.

Whatever happens to it, a `kill -9` included, the kernel then ends every server, drops every mount and frees every
loop device. The process outside waits and removes the temporary directory; should it be killed, a second one that only waits
for that does so.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from bench.machine import cgroups, interrupt, syscalls
from unionfs.errors import UserError
from unionfs.kernel import syscalls as mounts
from unionfs.program import run_command

_PREFIX = "unionbench-run-"
_YOUNG_SECONDS = 60.0


def check_privilege() -> None:
    """UserError unless this process may make namespaces and mounts."""
    if os.geteuid() != 0:
        raise UserError("mounting needs root", f"run: sudo {Path(sys.argv[0]).name} …", status=2)


def run(main: Callable[[Path], int], directory: Path) -> int:
    """Call `main` with an empty directory below `directory`, isolated; return its exit code.

    UserError when the directory cannot be written.
    """
    try:
        room = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=directory))
    except OSError as error:
        raise UserError(f"{directory}: {error.strerror}", "choose another with --directory") from None
    room.chmod(0o755)  # rootless targets are below it
    lock = os.open(room, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _leave_cleaner(room)
        _sweep(directory)
        return _run_in_namespaces(main, room)
    finally:
        cgroups.remove(room.name)
        shutil.rmtree(room, ignore_errors=True)
        os.close(lock)


def _leave_cleaner(room: Path) -> None:
    """Leave a process that removes the files when this one and all of its children are gone, however they went.

    They share the lock, which is free when the last of them has ended. When all went well there is nothing left to remove.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        os.chdir("/")
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the lock is among them
        fcntl.flock(os.open(room, os.O_RDONLY), fcntl.LOCK_EX)
        cgroups.remove(room.name)
        shutil.rmtree(room, ignore_errors=True)
    finally:
        os._exit(0)


def _sweep(directory: Path) -> None:
    """Remove the files of runs that were killed together with their cleaners: their locks are free.

    A young directory may be about to be locked.
    """
    for path in directory.glob(f"{_PREFIX}*"):
        try:
            if time.time() - path.stat().st_mtime < _YOUNG_SECONDS or path.stat().st_uid != os.geteuid():
                continue
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # not one of ours, or just removed
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            cgroups.remove(path.name)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass  # it runs
        finally:
            os.close(fd)


def _run_in_namespaces(main: Callable[[Path], int], room: Path) -> int:
    sys.stdout.flush()
    outer = os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(_enter(main, room, outer))
    _forward_signals(child)
    return _wait(child)


def _forward_signals(child: int) -> None:
    """Pass on what asks for an end; a terminal's Ctrl-C reaches the inner process by itself."""

    def forward(number: int, _frame: FrameType | None) -> None:
        os.kill(child, signal.SIGINT)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)


def isolate_runtimes(room: Path) -> None:
    """Keep apart what container runtimes leave: their control groups, which go with the run's directory, and /run."""
    try:
        cgroups.isolate(room.name)
        mounts.mount("unionbench", "/run", "tmpfs", 0, "mode=755")
    except OSError as error:
        raise UserError(f"no control groups of our own here: {error.strerror}") from None


def _wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1


def _enter(main: Callable[[Path], int], room: Path, outer: int) -> int:
    """Middle process: unshare, then fork, since only children enter the new pid namespace."""
    syscalls.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != outer:
        return 1
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
        # Nothing else may be started here: the first child becomes process 1, and its end is the end of the namespace.
        mounts.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    except OSError as error:
        print(f"unionbench: no private mount namespace here ({error})", file=sys.stderr)
        return 2
    inner = os.fork()
    if inner == 0:
        os._exit(_be_first(main, room))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: os.kill(inner, signal.SIGINT))
    return _wait(inner)


def _be_first(main: Callable[[Path], int], room: Path) -> int:
    syscalls.set_parent_death_signal(signal.SIGKILL)
    interrupt.expect()
    mounts.mount("proc", "/proc", "proc", 0, "")
    status = run_command("unionbench", lambda: main(room))
    sys.stdout.flush()
    sys.stderr.flush()
    return status
