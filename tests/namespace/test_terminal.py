# SPDX-License-Identifier: Apache-2.0
"""`unionbox run -it`: a terminal of the container's own, driven from one of ours."""

import os
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from subprocess import Popen

from tests.support.box import PATIENCE, ROOT, Box


class _Terminal:
    """The user's side of a terminal."""

    def __init__(self, master: int, client: Popen[bytes]) -> None:
        self.master = master
        self.client = client
        self._unread = ""

    def resize(self, rows: int, columns: int) -> None:
        ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.client.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read_until(self, text: str) -> str:
        """Return what comes up to and with `text`; what follows is kept for the next call."""
        deadline = time.monotonic() + PATIENCE
        while text not in self._unread:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self.master], [], [], left)[0]
            assert ready, f"no {text!r} in {self._unread!r}"
            self._unread += os.read(self.master, 4096).decode()
        end = self._unread.index(text) + len(text)
        seen, self._unread = self._unread[:end], self._unread[end:]
        return seen


@contextmanager
def _terminal(box: Box, *arguments: str) -> Iterator[_Terminal]:
    master, slave = os.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    client = Popen(
        box.command("-i", "-t", *arguments),
        cwd=ROOT,
        env=box.environment(),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    try:
        yield _Terminal(master, client)
    finally:
        client.kill()
        client.wait()
        os.close(master)
        os.close(slave)


def test_terminal_has_size_follows_changes_and_passes_interrupts(box: Box) -> None:
    """Size at start, size after a change, Ctrl-C to the foreground program only, exit status of the shell."""
    with _terminal(box, "--", "sh") as terminal:
        terminal.read_until("# ")
        before = termios.tcgetattr(terminal.master)
        terminal.type("stty size; tty; test -c /dev/console && echo con''sole\r")
        assert "33 99\r\n/dev/pts/0" in terminal.read_until("console\r\n")
        terminal.read_until("# ")
        terminal.resize(40, 80)
        terminal.type("while test \"$(stty size)\" != '40 80'; do :; done; echo resi''zed\r")
        terminal.read_until("resized\r\n")
        # The program itself tells that it has been started, and so is in the foreground: before, Ctrl-C is for the shell.
        terminal.type("sh -c \"echo sta''rt; exec sleep 1000\"; echo st''atus $?\r")
        terminal.read_until("start\r\n")
        terminal.type("\x03")
        terminal.type("echo still the''re; exit 9\r")
        terminal.read_until("still there")
        assert terminal.client.wait(PATIENCE) == 9
        after = termios.tcgetattr(terminal.master)
        assert before[3] & termios.ECHO == 0 and after[3] & termios.ECHO  # raw while it ran, restored now


def test_terminal_output_of_a_short_command_is_complete(box: Box) -> None:
    """What a command wrote just before its end reaches the user."""
    with _terminal(box, "--", "sh", "-c", "seq 1 2000; echo la''st") as terminal:
        seen = terminal.read_until("last\r\n")
        assert seen.count("\r\n") == 2001
        assert terminal.client.wait(PATIENCE) == 0


def test_terminal_without_one_is_not_given(box: Box) -> None:
    """Without -t the command has no terminal, whatever the client has."""
    assert box.run("--", "sh", "-c", "tty; test -e /dev/console || echo none").stdout == "not a tty\nnone\n"
