# SPDX-License-Identifier: Apache-2.0
"""Decide over the system calls of a process: let them pass, see them, have one fail or kill there. seccomp(2)'s listener does it.

Nothing is attached or detached for a single fault, as a tracer would be: the filter stays, and a thread of ours answers. It must
never wait for the process itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.faults.calls import SHAPES, Fault, shown
from tests.support.syscalls import call_number, seccomp_listener

_USER_NOTIF, _ALLOW = 0x7FC00000, 0x7FFF0000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_NOTICE = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_CONTINUE = 1
_RECEIVE = 3 << 30 | _NOTICE.size << 16 | ord("!") << 8
_SEND = 3 << 30 | _ANSWER.size << 16 | ord("!") << 8 | 1


def _numbers() -> dict[int, str]:
    """Return the numbers of the calls on this machine, those that it has."""
    numbers = {call_number(name): name for name in SHAPES}
    return {number: name for number, name in numbers.items() if number >= 0}


def listen() -> int:
    """Let this process's calls, and those of its children, be decided over from now on; return the listener's descriptor."""
    numbers = sorted(_numbers())
    program = [(_LOAD, 0, 0, 0)]
    program += [(_EQUAL, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _USER_NOTIF)]
    return seccomp_listener(b"".join(struct.pack("=HBBI", *line) for line in program))


def why_not() -> str:
    """Return why no calls can be decided over here, "" if they can."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(listen())
        except Exception as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        reason = stream.read().decode()
    os.waitpid(child, 0)
    return reason


@dataclass
class Trace:
    """The calls that were seen, in their order, and the one that failed."""

    seen: list[tuple[str, str]] = field(default_factory=list)
    hit: str = ""

    def calls(self) -> dict[str, list[str]]:
        """Return the arguments of the calls of each name."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, arguments in self.seen:
            found[name].append(arguments)
        return dict(found)


class _Watch:
    """What is to be seen and done for some time."""

    def __init__(self, calls: Sequence[str], fault: Fault | None) -> None:
        self.calls, self.fault = frozenset(calls), fault
        self.trace = Trace()
        self._counts: Counter[str] = Counter()

    def at(self, call: str, values: Sequence[int], thread: int) -> Fault | None:
        """Note a call; return the fault if it happens here."""
        if call not in self.calls:
            return None
        arguments = shown(call, values, thread)
        self._counts[call] += 1
        self.trace.seen.append((call, arguments))
        if self.fault is None or not self.fault.hits(call, self._counts[call]):
            return None
        self.trace.hit = f"{call}({arguments})"
        return self.fault


class Injector:
    """Answers for one process, until it and its children have ended. Owns the listener's descriptor."""

    def __init__(self, pid: int, listener: int) -> None:
        self._pid, self._listener = pid, listener
        self._numbers = _numbers()
        self._watch: _Watch | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def watching(self, calls: Sequence[str], fault: Fault | None = None) -> Iterator[Trace]:
        """See the process's `calls` for the length of the block, and let `fault` happen."""
        watch = self._watch = _Watch(calls, fault)
        try:
            yield watch.trace
        finally:
            self._watch = None

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        try:
            while not any(event & select.POLLHUP for _, event in poll.poll()):
                self._answer_one()
        finally:
            os.close(self._listener)

    def _answer_one(self) -> None:
        notice = bytearray(_NOTICE.size)
        # ENOENT: who made the call was killed before we read of it, or before we answered.
        try:
            fcntl.ioctl(self._listener, _RECEIVE, notice)
            number, thread, _, call, _, _, *values = _NOTICE.unpack(notice)
            answer = self._decide(self._numbers[call], values, thread)
            if answer is not None:
                fcntl.ioctl(self._listener, _SEND, bytearray(_ANSWER.pack(number, 0, *answer)))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def _decide(self, call: str, values: Sequence[int], thread: int) -> tuple[int, int] | None:
        """Return error and flags of the answer, None if there is nobody any more to get one."""
        watch = self._watch
        fault = watch.at(call, values, thread) if watch is not None and self._is_ours(thread) else None
        if fault is None:
            return 0, _CONTINUE
        if fault.error:
            return -getattr(errno, fault.error), 0
        os.kill(self._pid, signal.SIGKILL)
        return None

    def _is_ours(self, thread: int) -> bool:
        """Tell whether a thread is the process's, and not a child's."""
        return thread == self._pid or os.path.exists(f"/proc/{self._pid}/task/{thread}")
