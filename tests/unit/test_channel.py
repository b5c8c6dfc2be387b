# SPDX-License-Identifier: Apache-2.0
"""Messages between a container's processes, one of which may be killed at any moment."""

import os
import signal
from collections.abc import Callable

from runtime.oci import channel as messages
from runtime.oci import syscalls


def _fork(action: Callable[[], object]) -> int:
    """Run `action` in a child and return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    return pid


def test_sender_killed_after_it_forked_a_sibling_is_heard_of() -> None:
    """The sibling holds the channel too, so its end does not tell."""
    ours, theirs = messages.pair()

    def be_killed() -> None:
        ours.close()
        if syscalls.fork_sibling() == 0:
            messages.receive(theirs)  # until the test has closed its side
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    pid = _fork(be_killed)
    theirs.close()
    assert messages.receive_from(pid, ours) == ("", "", [])
    ours.close()
    os.waitpid(pid, 0)
    os.waitpid(-1, 0)  # the sibling


def test_last_words_of_a_sender_that_has_ended_are_heard() -> None:
    """What was sent before the end comes before the end."""
    ours, theirs = messages.pair()
    pid = _fork(lambda: messages.send(theirs, "init", "17"))
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    theirs.close()
    assert messages.receive_from(pid, ours) == ("init", "17", [])
    assert messages.receive_from(pid, ours) == ("", "", [])
    ours.close()
    os.waitpid(pid, 0)
