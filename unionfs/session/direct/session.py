# SPDX-License-Identifier: Apache-2.0
"""The direct session: reads requests from /dev/fuse itself and answers them, mostly without leaving one function.

Requests are taken as fast as they come; before sleeping the loop polls for a moment, since waking up costs more than most
requests do. Work that blocks goes to threads. The handlers are in the other modules of this package.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import time
from typing import TYPE_CHECKING

import trio

from unionfs.branches.copydata import CopyJob, Deferred
from unionfs.branches.lost import shown_errno
from unionfs.filesystem import UnionFilesystem
from unionfs.kernel.descriptor import Errand
from unionfs.kernel.reserve import is_exhausted
from unionfs.session import abi, threads
from unionfs.session.abi import Opcode
from unionfs.session.background import SETTLED, Tasks
from unionfs.session.direct.background import DirectBackground
from unionfs.session.direct.replies import NO_REPLY, Handler, Header
from unionfs.session.direct.requests import Requests
from unionfs.session.direct.workers import Workers
from unionfs.session.notify import Notifier
from unionfs.session.waiting.short_poll import ShortPoll

if TYPE_CHECKING:
    from unionfs.session.latencies import Statistics

log = logging.getLogger(__name__)
NAME = "direct"

MAX_WRITE = 1 << 20
# After how many requests other tasks get their turn.
_TURN = 64
# Up to here joining header and payload is cheaper than writing two pieces.
_COPIED = 8192
_HEADER_SIZE, _OUT_HEADER_SIZE = abi.IN_HEADER.size, abi.OUT_HEADER.size
# Threads for what has no data to move but may take long: to write back, to allocate, to copy within a filesystem.
_THREADS = 16
_new_tuple = tuple.__new__
# Requests whose reply begins with an entry, which the kernel will remember.
_ENTERING = frozenset(
    {Opcode.LOOKUP, Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.LINK, Opcode.CREATE, Opcode.TMPFILE}
)
# What a thread asks for in calls that take a path, list a directory or are about attributes, and waits for. Others come also
# from within execve(2), which closes files, or of the kernel itself. Without those on attributes whoever walks over a tree that
# the kernel knows (a second `chown -R`) would never be followed: there is nothing else then.
_OF_WAITING = frozenset(
    {
        Opcode.LOOKUP,
        Opcode.GETATTR,
        Opcode.READLINK,
        Opcode.SYMLINK,
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.RENAME2,
        Opcode.LINK,
        Opcode.OPEN,
        Opcode.CREATE,
        Opcode.READDIR,
        Opcode.READDIRPLUS,
        Opcode.SETATTR,
        Opcode.GETXATTR,
        Opcode.LISTXATTR,
        Opcode.SETXATTR,
        Opcode.REMOVEXATTR,
        Opcode.IOCTL,
    }
)
# A request was interrupted before we could read it.
_TAKEN_BACK = (errno.ENOENT, errno.EINTR)
# At umount; ECONNABORTED if requests were still queued then.
_GONE = (errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)


class DirectSession:
    """One mount's loop."""

    def __init__(
        self,
        filesystem: UnionFilesystem,
        device_fd: int,
        statistics: Statistics,
        nursery: trio.Nursery,
        tasks: Tasks,
        notifier: Notifier,
    ) -> None:
        self._fd = device_fd
        self._unknown = statistics.histogram("unknown")
        self._nursery = nursery
        self._buffer = bytearray(MAX_WRITE + 4096)
        self._buffers = (self._buffer,)
        self._view = memoryview(self._buffer)
        self.requests = Requests(filesystem, device_fd, MAX_WRITE, notifier)
        # By opcode: the handler, and what counts its requests.
        self._table = {
            opcode: (handler, statistics.histogram(self.requests.names[opcode]).count)
            for opcode, handler in self.requests.table.items()
        }
        self.requests.replies.interrupted = self._interrupt
        self._long: dict[int, Header] = {}  # requests that wait for a thread, by their unique number
        self._workers = Workers(device_fd, 0, _THREADS)
        self._poll = ShortPoll(device_fd, self._serve_behind)
        self._tasks = tasks
        self._forgotten = False
        os.set_blocking(device_fd, False)

    def shrunk(self) -> None:
        """Most nodes were forgotten: give memory back when there is nothing to do."""
        self._forgotten = True

    async def run(self) -> None:
        """Serve until the mount is gone."""
        fd, buffers, read, dispatch = self._fd, self._buffers, os.readv, self._dispatch
        goes_on, comes = self._poll.goes_on, self._poll.comes
        tasks, long, reading = self._tasks, self._long, self.requests.workers.pending
        while True:
            for _ in range(_TURN):
                # What a thread or another task is to do does not wait: those need the event loop, and the interpreter.
                others = long or reading or tasks.started
                if others or goes_on():
                    try:
                        length = read(fd, buffers)
                    except BlockingIOError:
                        if not others and comes():
                            continue
                    except OSError as error:
                        if error.errno in _GONE:
                            return
                        if error.errno not in _TAKEN_BACK:
                            raise
                        continue
                    else:
                        dispatch(length)
                        continue
                self._begin_postponed()
                tasks.started = False
                self._poll.rest()
                if self._forgotten:
                    length = 0  # it and the loop's counter would hold memory too
                    await self._give_back()
                    break
                await trio.lowlevel.wait_readable(fd)
            tasks.started = False
            await self._poll.pause()

    def _serve_behind(self) -> None:
        """Serve in the stand-in's thread, until the event loop is needed or has waited long enough."""
        fd, buffers, read, dispatch = self._fd, self._buffers, os.readv, self._dispatch
        goes_on, tasks, long, reading = (
            self._poll.goes_on_behind,
            self._tasks,
            self._long,
            self.requests.workers.pending,
        )
        while not (long or reading or tasks.started) and goes_on():
            try:
                # The client had its turn during our last answer, so mostly there is one.
                length = read(fd, buffers)
            except BlockingIOError:
                self._poll.wait_behind()
            except OSError as error:
                if error.errno not in _TAKEN_BACK:
                    return  # the event loop's thread gets the same
            else:
                dispatch(length)

    def _begin_postponed(self) -> None:
        """Start the tasks and the threads that the stand-in could not."""
        self._tasks.start_postponed()
        self._workers.start_missing()
        self.requests.workers.start_missing()

    async def _give_back(self) -> None:
        """Give memory back unless a request comes soon. What the loop sleeps with is made after that."""
        with trio.move_on_after(SETTLED) as quiet:
            await trio.lowlevel.wait_readable(self._fd)
        if quiet.cancelled_caught:
            self._forgotten = False
            self.requests.habits.clear()
            self.requests.filesystem.give_back()

    def close(self) -> None:
        """Wait for what threads are doing; nothing is answered afterwards."""
        self._long.clear()
        self._poll.close()
        self._workers.close()
        self.requests.workers.close()

    def _dispatch(self, length: int) -> None:
        start = time.perf_counter()
        if length < abi.IN_HEADER.size:
            log.error("a message of %d bytes is no request", length)
            return
        fields = abi.IN_HEADER.unpack_from(self._buffer)
        header: Header = _new_tuple(Header, fields)
        # What extends a request (in units of 8 bytes) comes last; nothing of the kind is asked for.
        body = self._view[_HEADER_SIZE : length - 8 * header.extensions if header.extensions else length]
        if (
            self._poll.wants_client
            and header.opcode in _OF_WAITING
            and not may_be_in_execve(header.opcode, body)
        ):
            self._poll.meet(header.pid)
        try:
            handler, count = self._table[header.opcode]
        except KeyError:
            self._unknown.count(time.perf_counter() - start)
            self._reply(header, -errno.ENOSYS, b"")
            return
        work = self._attempt(handler, header, body)
        if work is None:
            count(time.perf_counter() - start)
            return
        if isinstance(work, CopyJob):
            self._long[header.unique] = header
            self._tasks.start_soon(self._continue, header, bytes(body), work, start)
        else:
            self._in_thread(header, work, start)

    def _attempt(
        self, handler: Handler, header: Header, body: memoryview, *, again: bool = False
    ) -> CopyJob | Errand | None:
        """Handle a request and answer it; else return the long work that is to be done before, or that answers it."""
        try:
            payload = handler(header, body)
        except Deferred as deferred:
            return deferred.job  # alone: with its traceback it would keep whoever holds it
        except OSError as error:
            if self.requests.filesystem.notice(error):
                return self._attempt(handler, header, body, again=again)
            if is_exhausted(error) and not again and self.requests.filesystem.make_room():
                return self._attempt(handler, header, body, again=True)  # nothing was done
            self._reply(header, -shown_errno(error), b"")
        except Exception:
            self._fail(header)
        else:
            if isinstance(payload, Errand):
                return payload
            if payload is not NO_REPLY:
                self._reply(header, 0, payload)
        return None

    def _fail(self, header: Header) -> None:
        log.exception("%s failed", self.requests.names[header.opcode])
        self._reply(header, -errno.EIO, b"")

    def _reply(self, header: Header, error: int, payload: bytes | memoryview) -> None:
        reply = abi.OUT_HEADER.pack(_OUT_HEADER_SIZE + len(payload), error, header.unique)
        try:
            if payload.__class__ is bytes and len(payload) < _COPIED:
                os.write(self._fd, reply + payload)  # cheaper than a vector of two
            else:
                os.writev(self._fd, (reply, payload))
        except OSError as failure:
            # ENOENT: the caller was killed and the kernel no longer waits, so it does not remember the entry either.
            if header.opcode in _ENTERING and not error:
                self.requests.filesystem.forget(abi.ENTRY_OUT.unpack_from(payload)[0], 1)
            if failure.errno == errno.EINVAL and not error:
                log.error(
                    "the kernel refused the reply to request %d of node %d", header.unique, header.nodeid
                )
                self._reply(header, -errno.EIO, b"")
            elif failure.errno not in (errno.ENOENT, *_GONE):
                log.error("cannot reply: %s", failure.strerror)

    async def _continue(self, header: Header, body: bytes, job: CopyJob, start: float) -> None:
        """Run the long work of a request in a thread, then the request again, until it needs none."""
        work: CopyJob | Errand | None = job
        while isinstance(work, CopyJob):
            done = work
            try:
                await threads.run(done.run)
                if header.unique not in self._long:
                    return  # answered: its caller was killed
                work = self._attempt(self._table[header.opcode][0], header, memoryview(body))
            finally:
                self.requests.filesystem.leave_copy(done)
        if work is not None:
            self._in_thread(header, work, start)
            return
        self._long.pop(header.unique, None)
        self._table[header.opcode][1](time.perf_counter() - start)

    def _in_thread(self, header: Header, work: Errand, start: float) -> None:
        """Let a thread finish a request and answer it, unless its caller has been killed before the thread comes to it."""
        self._long[header.unique] = header

        def run(_: memoryview) -> bytes | memoryview:
            try:
                if header.unique not in self._long:
                    raise OSError(errno.EINTR, os.strerror(errno.EINTR))
                return work.function() or b""
            finally:
                self._long.pop(header.unique, None)
                self._table[header.opcode][1](time.perf_counter() - start)

        self._workers.submit(header.unique, run, work.held, waits_for_us=work.waits_for_us)

    def _interrupt(self, unique: int) -> None:
        """Answer EINTR to a request that waits for a thread if its caller is being killed; the thread's work is kept or lost.

        Other signals are not worth it: programs do not expect EINTR from files.
        """
        header = self._long.get(unique)
        if header is None or not _is_being_killed(header.pid):
            return
        with contextlib.suppress(KeyError):  # a thread may have finished it while we looked
            del self._long[unique]
            self._reply(header, -errno.EINTR, b"")


def may_be_in_execve(opcode: int, body: memoryview) -> bool:
    """Tell whether a request on attributes may come from where execve(2) closes files: not one that a system call asks for.

    Such hand over the times that the kernel held back (writeback cache), or are of a security module that looks at the files.
    """
    if opcode == Opcode.SETATTR:
        (valid,) = abi.SETATTR_VALID.unpack_from(body)
        return not valid & ~(abi.FATTR_MTIME | abi.FATTR_CTIME | abi.FATTR_FH)
    if opcode == Opcode.GETXATTR:
        name = bytes(body[abi.GETXATTR_IN.size :])
        return name.startswith(b"security.") and name != b"security.capability\0"
    return False


def _is_being_killed(pid: int) -> bool:
    """Tell whether SIGKILL waits for a thread; the kernel turns every deadly signal into that one."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
            pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    except OSError:  # of another pid namespace
        return False
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)


async def serve(filesystem: UnionFilesystem, device_fd: int, statistics: Statistics) -> None:
    """Serve requests from `device_fd` until the mount is gone, and close it."""
    notifier = Notifier(device_fd)
    try:
        await _serve(filesystem, device_fd, statistics, notifier)
    finally:
        # Not sooner: threads may be telling the kernel something through it, and its number may be used again.
        notifier.close()
        os.close(device_fd)


async def _serve(
    filesystem: UnionFilesystem, device_fd: int, statistics: Statistics, notifier: Notifier
) -> None:
    """Serve; no task and no thread goes on when this returns."""
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        session = DirectSession(filesystem, device_fd, statistics, nursery, tasks, notifier)
        beside = DirectBackground(session.requests, notifier, tasks, session.shrunk)
        beside.begin()
        try:
            await session.run()
        finally:
            beside.end()
            session.close()
            nursery.cancel_scope.cancel()
