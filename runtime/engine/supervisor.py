# SPDX-License-Identifier: Apache-2.0
"""The supervisor: one process a container. It starts init, serves the union in the host's namespaces, and cleans up.

Who notices whose death: init dies with the supervisor (PR_SET_PDEATHSIG); the supervisor sees init end on a pidfd and the
client end on the control socket; the client sees the supervisor end on the same socket. The client hears over `control`:
"init" + pidfd, "error STATUS TEXT", "exit STATUS". The first status counts, and it goes out as soon as init has ended: what
comes then (pseudo-links of a directory that is kept become real links, for which the whole root is walked) can take long, and
SIGTERM ends it.
"""

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from runtime.engine import ids, init
from runtime.engine.container import Container
from runtime.engine.request import Request
from runtime.oci import channel as messages
from unionfs.errors import UserError
from unionfs.program import describe

log = logging.getLogger(__name__)

FAILED = 125
_SERVER_PATIENCE = 5.0


def main(
    request: Request, container: Container, control: messages.Channel, terminal: messages.Channel | None
) -> NoReturn:
    """Run the container `request` from start to end; called right after the fork. Never returns."""
    status = FAILED
    try:
        os.setsid()
        init.set_name("unionbox-serve")
        status = _Supervisor(request, container, control).run(terminal)
    except UserError as error:
        messages.send(control, "error", f"{FAILED} {error.line()}")
    except OSError as error:
        messages.send(control, "error", f"{FAILED} {describe(error)}")
    except BaseException as error:
        log.exception("the supervisor failed")
        messages.send(control, "error", f"{FAILED} {type(error).__name__}: {error}")
    finally:
        messages.send(control, "exit", str(status))
        _clean(container, control)
        os._exit(0)


def _clean(container: Container, control: messages.Channel) -> None:
    try:
        container.clean()
    except OSError as error:
        messages.send(control, "warning", f"container {container.id} could not be removed: {error}")


class _Supervisor:
    """The life of one container."""

    def __init__(self, request: Request, container: Container, control: messages.Channel) -> None:
        self._request = request
        self._container = container
        self._control = control
        self._channel, self._init_side = messages.pair()
        self._device: int | None = None
        self._pidfd = -1

    def run(self, terminal: messages.Channel | None) -> int:
        """Start the container, serve its root until it has ended, return its exit status."""
        self._create_cgroup()
        stage_one = self._fork(terminal)
        try:
            pid = self._answer(stage_one)
            if pid is None:
                return FAILED
            self._pidfd = os.pidfd_open(pid)
            return self._attend(pid)
        except BaseException:
            self._channel.close()  # stage 1 may wait for an answer
            raise
        finally:
            for child in (stage_one, None):
                _reap(child)

    def _create_cgroup(self) -> None:
        limits = self._request.spec.limits
        try:
            self._container.group.create(limits)
        except OSError as error:
            # Root needs the group in any case: it is what keeps a container from the machine's devices.
            if limits.any() or os.geteuid() == 0:
                hint = "mount the cgroup controllers" if os.geteuid() == 0 else "only root can limit, here"
                raise UserError(f"cannot make a cgroup: {error.strerror} ({error.filename})", hint) from None
            log.info("no cgroup: %s", error)

    def _fork(self, terminal: messages.Channel | None) -> int:
        """Fork stage 1, with every signal blocked, and let go of what only the container needs."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            if not self._request.spec.process.stdin:
                null = os.open("/dev/null", os.O_RDONLY)
                os.dup2(null, 0)
            init.stage_one(self._request.spec, self._container.group.layout, self._init_side, terminal)
        self._init_side.close()
        if terminal is not None:
            terminal.close()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return pid

    def _answer(self, stage_one: int) -> int | None:
        """Serve stage 1's wishes until it has forked init; return init's pid, None if it failed."""
        group = self._container.group
        spec = self._request.spec
        while True:
            word, text, descriptors = messages.receive_from(stage_one, self._channel)
            if word == "map":
                ids.write(stage_one, (spec.uid_map, spec.gid_map))
                messages.send(self._channel, "ok")
            elif word == "join":
                if group.exists():
                    group.join(stage_one)
                    group.restrict_devices()
                messages.send(self._channel, "ok")
            elif word == "fuse":
                self._device = descriptors[0]
            elif word == "init":
                _reap(stage_one)
                return int(text)
            else:
                self._report(word, text)
                return None

    def _report(self, word: str, text: str) -> None:
        """Tell the client why the container did not start."""
        if word != "error":
            killed = self._container.group.exists() and self._container.group.oom_kills() > 0
            text = "the container's init died while it was being set up"
            text = f"{FAILED} {text}" + (
                "; the memory limit is too low, init alone needs about 6m" if killed else ""
            )
        messages.send(self._control, "error", text)

    def _attend(self, pid: int) -> int:
        """Let init go on, serve the union meanwhile, and return the status with which init ends."""
        watch = _Watch(self._pidfd, self._channel, self._control, self._report)
        try:
            serve = self._open_union(watch)
        except BaseException:
            _kill(self._pidfd)
            raise
        messages.send(self._control, "init", "", [self._pidfd])
        messages.send(self._channel, "go")
        watch.start()
        try:
            serve()
        except BaseException:
            # A container that dies while the server starts, or in mid-request, is no failure of the server.
            if not watch.ended.wait(_SERVER_PATIENCE):
                watch.tells = False
                raise
            log.debug("the server of a dead container ended badly", exc_info=True)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from here on there is only cleaning
            _kill(self._pidfd)  # a server that ended by itself leaves a container without a root
            watch.ended.wait()
        self._tell_of_oom()
        return _exit_status(os.waitid(os.P_PID, pid, os.WEXITED))

    def _tell_of_oom(self) -> None:
        kills = self._container.group.oom_kills()
        if kills:
            messages.send(self._control, "warning", f"processes killed at the memory limit: {kills}")

    def _open_union(self, watch: "_Watch") -> Callable[[], object]:
        """Open the branches and return the function that serves until the mount has gone."""
        if self._device is None:
            return watch.ended.wait
        spec = self._request.spec
        ids.enter_servers((spec.uid_map, spec.gid_map))  # before the union's modules look whose they are
        # Only here: the processes of the container were forked before and need not carry these modules.
        from unionfs import server
        from unionfs.filesystem import UnionFilesystem
        from unionfs.room import raise_limit

        for name in ("pyfuse3", "pyfuse3._pyfuse3"):
            logging.getLogger(name).addFilter(_is_news)
        raise_limit()  # every node that is in use holds descriptors
        request = self._request
        filesystem = UnionFilesystem.open(
            request.branches, request.options, overlap_ok=True, held=request.hold
        )
        filesystem.discarded = request.private
        served = server.Server()
        told = partial(watch.ended.wait, _SERVER_PATIENCE)
        served.add(filesystem, self._device, mountpoint=None, control=False, on_gone=told)
        # A mount outlives the container when somebody else has entered its mount namespace.
        watch.on_end = lambda: served.end_when_idle(_SERVER_PATIENCE)
        return served.run


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what pyfuse3 says of answers to processes that were killed while they waited: with a container that is usual."""
    return "fuse_reply_* failed" not in record.getMessage()


class _Watch(threading.Thread):
    """Waits beside the server for the end of init or of the client, and hands init's report and status on."""

    def __init__(
        self,
        pidfd: int,
        channel: messages.Channel,
        control: messages.Channel,
        report: Callable[[str, str], None],
    ) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.tells = True  # the client of the status; not when it was us that ended init
        self.on_end: Callable[[], None] = lambda: None
        self._pidfd = pidfd
        self._channel = channel
        self._control = control
        self._report = report

    def run(self) -> None:
        """Wait for the end of init."""
        started = False
        poll = select.poll()
        for source in (self._pidfd, self._channel.fileno(), self._control.fileno()):
            poll.register(source, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._channel.fileno() in ready:
                word, text, _ = messages.receive(self._channel)
                if word == "ready":
                    started = True
                elif word == "error" or not started:
                    self._report(word, text)
                poll.unregister(self._channel)
            if self._control.fileno() in ready:  # the client never speaks: it has died
                _kill(self._pidfd)
                poll.unregister(self._control)
            if self._pidfd in ready:
                break
        if self.tells:
            messages.send(self._control, "exit", str(_status_behind(self._pidfd)))
        self.ended.set()
        self.on_end()


def _status_behind(pidfd: int) -> int:
    """Return the exit status of a child that has ended, and leave it to be reaped."""
    return _exit_status(os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT))


def _exit_status(result: os.waitid_result | None) -> int:
    """Return the status of an ended process as a shell gives it."""
    assert result is not None  # only with WNOHANG
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _reap(pid: int | None) -> None:
    try:
        os.waitpid(-1 if pid is None else pid, 0 if pid is not None else os.WNOHANG)
    except ChildProcessError:
        pass
