# SPDX-License-Identifier: Apache-2.0
"""Loading a filter into this process, for good."""

from __future__ import annotations

import errno
import os
import time

from runtime.oci import channel as messages
from runtime.oci import syscalls
from runtime.oci.failure import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.seccomp.filter import Filter

_POLL = 0.0005
_SIGKILL = 9


def load(seccomp: Filter, channel: messages.Channel) -> None:
    """Install the filter in this process, which has one thread, and send a listener's descriptor over `channel`.

    Needs no_new_privs or CAP_SYS_ADMIN. A listener's descriptor goes as the message "seccomp", after "helper" with the pidfd of
    the process that sends it: should that die, it will never come ("helper" without one takes that back). Returns when the
    parent has answered "ok", that is when the agent has it. Raises Failure when the kernel refuses, or the parent.
    """
    with Step("cannot load the seccomp filter"):
        if seccomp.listener:
            _load_and_report(seccomp, channel)
        else:
            syscalls.seccomp(seccomp.flags, seccomp.program)


def _load_and_report(seccomp: Filter, channel: messages.Channel) -> None:
    # From the moment the filter is loaded the agent decides about every call, sendmsg perhaps too, and does not know of us
    # yet. So a child that shares our descriptors, but not the filter, waits for the listener to appear and sends it.
    reserved, expected = os.dup(channel.fileno()), os.dup(channel.fileno())
    os.close(expected)
    ours = os.getpid()
    helper = syscalls.fork(syscalls.CLONE_FILES)
    if helper == 0:
        _send_when_open(expected, channel, ours)
    os.close(reserved)
    end = os.pidfd_open(helper)  # is now where `reserved` was, so that `expected` is the next free one still
    messages.send(channel, "helper", "", [end])
    try:
        listener = syscalls.seccomp(seccomp.flags, seccomp.program)
    except OSError:
        messages.send(channel, "helper")
        os.kill(helper, _SIGKILL)
        os.waitpid(helper, 0)
        raise
    word = messages.receive(channel)[0]
    os.waitpid(helper, 0)
    os.close(listener)
    os.close(end)
    if word != "ok":
        raise OSError(errno.ECONNABORTED, "the agent was not reached")


def _send_when_open(fd: int, channel: messages.Channel, parent: int) -> None:
    try:
        while os.getppid() == parent:
            try:
                os.fstat(fd)
            except OSError:
                time.sleep(_POLL)
            else:
                messages.send(channel, "seccomp", "", [fd])
                break
    finally:
        os._exit(0)
