# SPDX-License-Identifier: Apache-2.0
"""Hooks of config.json: programs run at six points of a container's life, with its state on their standard input.

Imported only for a container that has hooks, before imports are forbidden. What a hook prints is kept for the message
that tells of its failure.
"""

from __future__ import annotations

import errno
import os
import select
import time

from runtime.oci import sealed_exec
from runtime.oci.failure import Failure, describe
from runtime.oci.process import environment as variables
from runtime.oci.process import launch, signals
from runtime.oci.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

Output = tuple[str, str]  # files that get what hooks print, "" for none
_NOWHERE = ("", "")
_CHUNK = 65536
_MOST_OUTPUT = 4096  # bytes, the last ones, for the message
_NOT_STARTED = 127
_LONGEST_WAIT = 1e6  # seconds, of one poll(2)


def check(hooks: dict[str, Any]) -> None:
    """Check `hooks` of config.json; raises Failure naming the key."""
    for kind in KINDS:
        for number, hook in enumerate(hooks.get(kind) or ()):
            key = f"hooks.{kind}[{number}]"
            if not str(hook.get("path", "")).startswith("/"):
                raise Failure(f"{key}.path: {hook.get('path')!r} is not an absolute path")
            timeout = hook.get("timeout")
            if timeout is not None and (type(timeout) is not int or timeout <= 0):
                raise Failure(f"{key}.timeout: {timeout!r} is not a positive number of seconds")
            if hook.get("args") and not hook["args"][0]:
                raise Failure(
                    f"{key}.args: the first is empty", "it is what the program is told to be called"
                )
            variables.lower(hook.get("env"), f"{key}.env")


def output_of(config: dict[str, Any]) -> Output:
    """Return where hooks on the host shall print, by the annotations that engines know from another runtime."""
    annotations = config.get("annotations") or {}
    return annotations.get("run.oci.hooks.stdout") or "", annotations.get("run.oci.hooks.stderr") or ""


def run(
    hooks: list[dict[str, Any]],
    state: str,
    *,
    kind: str,
    directory: str | None = None,
    environment: dict[bytes, bytes] | None = None,
    inside: bool = False,
    output: Output = _NOWHERE,
) -> None:
    """Run `hooks` in order, each to its end; the first that fails ends it with a Failure that names it.

    `state` is the state JSON; `directory` their working directory; `environment` what a hook without `env` gets (ours if
    None; startContainer inherits the process'). A timeout kills the hook's process group. `inside` tells that the programs
    are the container's own, so that they must not come to see the interpreter (see sealed_exec.py). `output` is of `output_of`.
    """
    for number, hook in enumerate(hooks):
        problem = _Run(hook, state, directory, environment, inside, output).problem()
        if problem:
            raise Failure(f"error running hook #{number}: {hook['path']}: {kind} hook {problem}")


def run_all(
    hooks: list[dict[str, Any]],
    state: str,
    *,
    kind: str,
    directory: str | None = None,
    output: Output = _NOWHERE,
) -> list[str]:
    """Run every one of `hooks` even if some fail (poststop); return what failed, for the log."""
    problems = []
    for number, hook in enumerate(hooks):
        try:
            problem = _Run(hook, state, directory, None, False, output).problem()
        except Failure as failure:
            problem = f"failed: {failure.line()}"
        if problem:
            problems.append(f"error running hook #{number}: {hook['path']}: {kind} hook {problem}")
    return problems


class _Run:
    """One hook from its fork to its end."""

    __slots__ = (
        "_arguments", "_directory", "_environment", "_inside", "_output", "_path", "_state", "_timeout"
    )  # fmt: skip

    def __init__(
        self,
        hook: dict[str, Any],
        state: str,
        directory: str | None,
        environment: dict[bytes, bytes] | None,
        inside: bool,
        output: Output,
    ) -> None:
        self._output = output
        self._path = variables.encode(hook["path"], "hook path")
        arguments = hook.get("args") or [hook["path"]]
        self._arguments = [variables.encode(text, "hook args") for text in arguments]
        inherited = dict(os.environb) if environment is None else environment
        self._environment = variables.lower(hook["env"], "hook env") if hook.get("env") else inherited
        self._timeout: int | None = hook.get("timeout")
        self._directory = directory
        self._inside = inside
        self._state = state.encode("utf-8", "surrogateescape")

    def problem(self) -> str:
        """Run the hook; return what is wrong, or "" if it succeeded."""
        state_reader, state_writer = os.pipe2(os.O_CLOEXEC)
        output_reader, output_writer = os.pipe2(os.O_CLOEXEC)
        report_reader, report_writer = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError as error:
            for fd in (
                state_reader,
                state_writer,
                output_reader,
                output_writer,
                report_reader,
                report_writer,
            ):
                os.close(fd)
            return f"cannot be started: {describe(error)}; raise linux.resources.pids.limit"
        if pid == 0:
            self._be_hook(state_reader, output_writer, report_writer)
        for fd in (state_reader, output_writer, report_writer):
            os.close(fd)
        try:
            output, status = self._communicate(pid, state_writer, output_reader)
            failed = sealed_exec.reported(os.read(report_reader, _CHUNK), os.fsdecode(self._path))
        finally:
            os.close(report_reader)
        if status is None:
            return f"killed after its timeout of {self._timeout} s"
        if failed is not None:
            return f"failed: {(failed.strerror or '').lower()}"
        if status == 0:
            return ""
        how = f"failed with exit code {status}" if status > 0 else _killed(-status)
        text = " ".join(output.decode("utf-8", "replace").split())
        return f"{how}, output: {text}" if text else how

    def _be_hook(self, state: int, output: int, report: int) -> NoReturn:
        try:
            os.setsid()
            for source, target in ((state, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            for path, target in zip(self._output, (1, 2), strict=True):
                if path:
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), target)
            if self._directory is not None:
                os.chdir(self._directory)
            launch.close_all_but({0, 1, 2, report})
            signals.reset()
            if self._inside:
                sealed_exec.execute(self._path, self._arguments, self._environment, report=report)
            os.execve(self._path, self._arguments, self._environment)
        except OSError as error:
            os.write(2, (error.strerror or "").lower().encode())
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode())
        finally:  # whatever happens, this child must not return into its parent's code
            os._exit(_NOT_STARTED)

    def _communicate(self, pid: int, state_writer: int, output_reader: int) -> tuple[bytes, int | None]:
        """Feed and hear the hook until it ends; return (output, exit status), None as status for one that took too long."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        os.set_blocking(state_writer, False)
        os.set_blocking(output_reader, False)
        end = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(state_writer, select.POLLOUT)
        poll.register(output_reader, select.POLLIN)
        poll.register(end, select.POLLIN)
        state, output, ended, late = self._state, b"", False, False
        try:
            while not ended and not late:
                remaining = _LONGEST_WAIT if deadline is None else max(0.0, deadline - time.monotonic())
                events = poll.poll(min(remaining, _LONGEST_WAIT) * 1000)
                late = not events and remaining < _LONGEST_WAIT
                for fd, _ in events:
                    if fd == state_writer:
                        state = _feed(fd, state)
                        if not state:
                            poll.unregister(fd)
                            os.close(fd)
                            state_writer = -1
                    elif fd == output_reader:
                        if not (data := _drain(fd)):
                            poll.unregister(fd)
                        output = (output + data)[-_MOST_OUTPUT:]
                    else:
                        ended = True
            if late:
                _kill(pid)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            output = (output + _drain(output_reader))[-_MOST_OUTPUT:]
            return output, None if late else status
        except BaseException:  # we are told to stop: so is the hook
            _kill(pid)
            os.waitpid(pid, 0)
            raise
        finally:
            for fd in (state_writer, output_reader, end):
                if fd >= 0:
                    os.close(fd)


def _kill(pid: int) -> None:
    """Kill a hook that is not reaped yet, with its process group once it has one of its own."""
    os.kill(pid, signal.SIGKILL)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _killed(number: int) -> str:
    name = (signal.strsignal(number) or "").lower()
    return f"killed by signal {number}: {name}" if name else f"killed by signal {number}"


def _feed(fd: int, data: bytes) -> bytes:
    """Write what the pipe takes; return the rest, nothing if the hook does not want to read it."""
    try:
        return data[os.write(fd, data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return b""


def _drain(fd: int) -> bytes:
    """Return what the pipe holds; nothing at its end."""
    try:
        return os.read(fd, _CHUNK)
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
        return b""
