# SPDX-License-Identifier: Apache-2.0
"""The life of a mount: check, open branches, mount, become a server in the background, report when it answers."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unionfs.branches.branch import Branch
from unionfs.errors import UserError
from unionfs.kernel import reserve
from unionfs.options.aufs import Options
from unionfs.program import describe, set_up_log

if TYPE_CHECKING:
    from unionfs.filesystem import UnionFilesystem

_READY = b"\0"
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GLANCE = 0.05  # seconds between two looks whether we are told to stop


@dataclass(frozen=True, slots=True)
class MountPlan:
    """Everything that a mount needs. `flags` are words of mount(8); `subtype` "" shows the type as plain fuse."""

    branches: tuple[Branch, ...]
    target: str
    options: Options = field(default_factory=Options)
    flags: frozenset[str] = frozenset()
    fsname: str = "none"
    subtype: str = "unionfs"
    session: str = "auto"
    log_file: str | None = None
    debug: bool = False
    overlap_ok: bool = False


def mount_in_background(*plans: MountPlan, ends: bool = False) -> int:
    """Mount, all plans in one server, and return its pid when every mount answers; UserError with the reason otherwise.

    The server is forked before anything heavy is imported, and twice, so that it belongs to init. Told to stop (SIGTERM, SIGINT,
    SIGHUP) before it knows that the mount answers this process leaves none; of one that `ends` now signals change nothing any
    more after that.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        pid = _start(plans, before)
        if _is_told_to_stop():  # after the server answered, but nobody has been told yet
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            wait_for_end(pid)
            ends = False
    except BaseException:
        ends = False
        raise
    finally:
        if not ends:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _is_told_to_stop() -> bool:
    return not signal.sigpending().isdisjoint(_STOP)


def _start(plans: Sequence[MountPlan], mask: set[int]) -> int:
    """Start the server, with the signal `mask` of the caller, and return its pid when it answers."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(reading)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        _exit(_background(plans, writing))
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb", buffering=0) as stream:
        report = b""
        while True:
            if select.select([stream], [], [], _GLANCE)[0]:
                if not (part := stream.read(1 << 16)):
                    break
                report += part
            elif _is_told_to_stop():
                raise UserError(
                    "told to stop before the mount answered"
                )  # which the server finds out by the pipe
    if not report.startswith(_READY):
        raise UserError(os.fsdecode(report) or "the server died before the mount answered")
    return int(report[1:])


def _exit(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _background(plans: Sequence[MountPlan], writing: int) -> int:
    """Be the server; what goes wrong before the mount answers is sent to the parent."""

    def ready() -> None:
        try:
            os.write(writing, _READY + str(os.getpid()).encode())
        except BrokenPipeError:  # whoever asked for the mount was told to stop: nobody wants it any more
            os.kill(os.getpid(), signal.SIGTERM)
        os.close(writing)
        _let_go(plans[0].log_file)

    try:
        return serve_together(plans, ready)
    except UserError as error:
        message = error.line()
    except OSError as error:
        message = describe(error)
    except BaseException as error:
        logging.getLogger(__name__).exception("the server failed")
        message = f"internal error: {error!r}"
    with contextlib.suppress(OSError):  # after `ready` nobody listens
        os.write(writing, os.fsencode(message))
    return 1


def _let_go(log_file: str | None) -> None:
    """Let go of the terminal; messages go to the log file."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _set_up_log(plan: MountPlan) -> None:
    level = logging.DEBUG if plan.debug else logging.INFO
    shape = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    if plan.log_file:
        try:
            handler = logging.FileHandler(plan.log_file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UserError(f"log file {plan.log_file}: {error.strerror}") from None
        set_up_log(handler, level, shape)
    else:
        level = level if plan.debug else logging.WARNING
        set_up_log(logging.StreamHandler(), level, "unionfs: %(message)s")


def serve(plan: MountPlan, on_ready: Callable[[], None]) -> int:
    """Mount and serve in this process until the mount is gone; return the exit code."""
    return serve_together((plan,), on_ready)


def serve_together(plans: Sequence[MountPlan], on_ready: Callable[[], None]) -> int:
    """Mount several unions and serve them in this process until all are gone; return the exit code.

    `on_ready` is called once, when all answer; log and debugging are as the first plan says. UserError, with nothing left
    mounted, if one cannot be mounted. No mount point may lie inside another one: the server would wait for itself.
    """
    _set_up_log(plans[0])
    reserve.raise_limit()
    os.umask(0)  # the caller's umask is applied by hand, the server's must not count
    from unionfs.server.choice import choose_session, load_session
    from unionfs.server.process import Server

    for plan in plans:
        # Now, as after the mount the modules may lie in it.
        load_session(choose_session(plan.session)[0])
    targets = _check_targets(plans)
    waiting = set(targets)

    def one_ready(target: str) -> None:
        waiting.discard(target)
        if not waiting:
            on_ready()

    server = Server()
    with contextlib.ExitStack() as mounts:
        with contextlib.ExitStack() as opened:
            filesystems = [_open(plan, target, opened) for plan, target in zip(plans, targets, strict=True)]
            for plan, target, filesystem in zip(plans, targets, filesystems, strict=True):
                device_fd = _attach(plan, target)
                mounts.callback(_detach, target)
                ready = functools.partial(one_ready, target)
                server.add(filesystem, device_fd, mountpoint=target, on_ready=ready, session=plan.session)
            opened.pop_all()  # from here on the server closes them
        os.chdir("/")
        status = server.run()
        mounts.pop_all()
    return status


def _check_targets(plans: Sequence[MountPlan]) -> list[str]:
    """Return the real mount points; UserError if one cannot be used."""
    from unionfs.session import device

    targets: list[str] = []
    for plan in plans:
        device.check_target(plan.target)
        target = os.path.realpath(plan.target)
        for other in targets:
            if os.path.commonpath((target, other)) in (target, other):
                raise UserError(f"mount point {plan.target} lies inside another one of this server")
        targets.append(target)
    return targets


def _open(plan: MountPlan, target: str, opened: contextlib.ExitStack) -> UnionFilesystem:
    from unionfs.filesystem import UnionFilesystem

    try:
        filesystem = UnionFilesystem.open(
            plan.branches,
            plan.options,
            mountpoint=target,
            read_only="ro" in plan.flags,
            overlap_ok=plan.overlap_ok,
        )
    except OSError as error:
        hint = "unmount that first; -o share_rw takes it all the same" if error.errno == errno.EBUSY else ""
        raise UserError(f"branch {describe(error)}", hint) from None
    opened.callback(filesystem.close)
    return filesystem


def _detach(target: str) -> None:
    from unionfs.session import device

    with contextlib.suppress(UserError):
        device.unmount(target, lazy=True)


def _attach(plan: MountPlan, target: str) -> int:
    """Mount, by mount(2) where this process may and by fusermount3 elsewhere, and return the device descriptor."""
    from unionfs.session import device

    allow_other = "allow_other" in plan.flags
    if not device.may_mount():
        return device.mount_unprivileged(
            target, fsname=plan.fsname, flags=plan.flags, allow_other=allow_other, subtype=plan.subtype
        )
    device_fd = device.open_device()
    try:
        device.mount(
            device_fd,
            target,
            fsname=plan.fsname,
            flags=plan.flags,
            allow_other=allow_other,
            subtype=plan.subtype,
        )
    except BaseException:
        os.close(device_fd)
        raise
    return device_fd


def default_flags(flags: frozenset[str]) -> frozenset[str]:
    """Return mount flags with the defaults: as root others may enter and set-id bits and devices count."""
    if os.geteuid() == 0:
        return flags | {"allow_other"}
    return flags


def wait_for_end(pid: int) -> None:
    """Wait until the server has closed its branches, so that they can be used (or unmounted) at once."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        select.select([fd], [], [], 10)
    finally:
        os.close(fd)
