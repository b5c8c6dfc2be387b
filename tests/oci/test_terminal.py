# SPDX-License-Identifier: Apache-2.0
"""Terminals: handed over through a console socket, or copied by us in the foreground."""

import array
import os
import pty
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.oci import Bundle, wait_until


class Receiver:
    """A console socket and the terminal that came through it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.master = -1

    def receive(self) -> bytes:
        """Accept one terminal; return what came with it."""
        connection, _ = self._listener.accept()
        with connection:
            data, controls, _, _ = connection.recvmsg(256, socket.CMSG_SPACE(4))
        fds = array.array("i")
        fds.frombytes(controls[0][2])
        self.master = fds[0]
        return data

    def read_until(self, words: bytes) -> bytes:
        """Read from the terminal until it has said `words`."""
        data = b""
        while words not in data:
            try:
                part = os.read(self.master, 4096)
            except OSError:  # EIO: nobody has it open any more
                part = b""
            assert part, data
            data += part
        return data

    def close(self) -> None:
        """Close socket and terminal."""
        self._listener.close()
        if self.master >= 0:
            os.close(self.master)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """Give a console socket."""
    found = Receiver(tmp_path / "console.sock")
    yield found
    found.close()


def test_console_socket_gets_the_terminal(bundle: Bundle, receiver: Receiver) -> None:
    """Its size is set, it is the controlling one, /dev/console is it, and it belongs to the user."""
    bundle.process["terminal"] = True
    bundle.process["consoleSize"] = {"height": 10, "width": 110}
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.shell(
        "stty size; tty; ls -ln $(tty) | cut -d' ' -f1,3-; stat -c %t,%T /dev/console $(tty); echo x >/dev/tty; read a"
    )
    bundle.run("--detach", "--console-socket", str(receiver.path))
    assert receiver.receive().startswith(b"/dev/pts/")
    lines = receiver.read_until(b"x\r\n").decode().split("\r\n")
    assert lines[:2] == ["10 110", "/dev/pts/0"]
    assert lines[2].split()[2] == "1000" or " 1000 " in lines[2]
    assert lines[3] == lines[4]


def test_console_socket_with_a_long_path(bundle: Bundle, tmp_path: Path) -> None:
    """An address holds 108 bytes, a path more."""
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    here = os.open(deep, os.O_RDONLY)
    try:
        receiver = Receiver(Path(f"/proc/self/fd/{here}/s"))
        bundle.process["terminal"] = True
        bundle.run("--detach", "--console-socket", str(deep / "s"), args=["sleep", "100"])
        assert receiver.receive()
        receiver.close()
    finally:
        os.close(here)


def test_console_socket_must_fit_the_configuration(bundle: Bundle, receiver: Receiver) -> None:
    """A socket without a terminal, a detached terminal without a socket, and a socket that is not there are told."""
    result = bundle.run("--detach", "--console-socket", str(receiver.path), args=["true"], check=False)
    assert result.returncode == 1
    bundle.process["terminal"] = True
    assert bundle.run("--detach", check=False).returncode == 1
    result = bundle.run("--detach", "--console-socket", "/no/socket", check=False)
    assert result.returncode == 1
    assert "/no/socket" in result.stderr
    assert bundle.leftovers() == []


def test_exec_console_socket(bundle: Bundle, receiver: Receiver) -> None:
    """exec's terminal is another of the container's own."""
    bundle.detach()
    bundle.exec(
        "--tty", "--detach", f"--console-socket={receiver.path}", "sh", "-c", "tty; read line; echo got $line"
    )
    receiver.receive()
    assert b"/dev/pts/0" in receiver.read_until(b"/dev/pts/0")
    os.write(receiver.master, b"typed\n")
    assert receiver.read_until(b"got typed\r\n")
    for options in (["--tty", "--detach"], [f"--console-socket={receiver.path}"]):
        assert bundle.exec(*options, "true", check=False).returncode == 255


def test_terminal_is_made_while_devices_are_restricted(bundle: Bundle) -> None:
    """The parent denies all devices before it allows some: nothing of the container may need one at that moment."""
    bundle.process["terminal"] = True
    many = [{"allow": True, "type": "c", "major": 1000 + n, "minor": 0, "access": "r"} for n in range(500)]
    bundle.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}, *many]}
    for _ in range(5):
        assert bundle.run(args=["echo", "fine"], check=False).stderr == ""


def test_exec_terminal_belongs_to_the_user(bundle: Bundle) -> None:
    """So that he can open it again."""
    bundle.detach()
    result = bundle.exec("--tty", "--user=1000", "sh", "-c", "echo again > $(tty); stat -c %u $(tty)")
    assert result.stdout.split() == ["again", "1000"]


@pytest.mark.parametrize("command", ["run", "exec"])
def test_foreground_terminal_is_copied(bundle: Bundle, command: str) -> None:
    """Input, output, size and its changes, and the exit status, as in a terminal of one's own."""
    script = "stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do read -t 1 line && echo got $line; done"
    if command == "run":
        bundle.process["terminal"] = True
        bundle.shell(script)
        bundle.save()
        words = bundle.command("run", "--bundle", str(bundle.directory), bundle.id)
    else:
        bundle.detach()
        words = bundle.command("exec", "--tty", bundle.id, "sh", "-c", script)
    master, slave = pty.openpty()
    pty_size(master, 24, 81)
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    try:
        text = read_until(master, b"ready\r\n")
        assert b"24 81" in text
        os.write(master, b"typed\n")
        read_until(master, b"got typed\r\n")
        pty_size(master, 30, 90)
        process.send_signal(signal.SIGWINCH)
        read_until(master, b"30 90")
        assert process.wait(20) == 5
    finally:
        process.kill()
        process.wait()
        os.close(master)


def pty_size(fd: int, rows: int, columns: int) -> None:
    """Set the size of a terminal."""
    import termios

    termios.tcsetwinsize(fd, (rows, columns))


def read_until(fd: int, words: bytes) -> bytes:
    """Read from a terminal until it has said `words`."""
    data = b""
    while words not in data:
        data += os.read(fd, 4096)
    return data


def test_foreground_forwards_signals(bundle: Bundle) -> None:
    """What is sent to us arrives at the program."""
    bundle.shell("trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.1; done")
    bundle.save()
    words = bundle.command("run", "--bundle", str(bundle.directory), bundle.id)
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.stdout.read() == b"term\n"
    process.stdout.close()
    assert process.wait(20) == 3


def test_fake_terminal_multiplexer_is_refused(bundle: Bundle, receiver: Receiver) -> None:
    """A container that replaced /dev/pts cannot hand us another descriptor as the terminal (CVE-2025-52565)."""
    bundle.process["capabilities"] = {k: ["CAP_SYS_ADMIN"] for k in ("bounding", "effective", "permitted")}
    script = "umount /dev/pts && mkdir -p /dev/pts && echo secret > /dev/pts/ptmx && echo done; sleep 1000"
    bundle.detach(args=["sh", "-c", script])
    wait_until(lambda: "done" in bundle.output(), "the terminal has been replaced")
    result = bundle.exec("--tty", "--detach", f"--console-socket={receiver.path}", "true", check=False)
    assert result.returncode == 255
    assert "terminal" in result.stderr


def test_shell_in_the_foreground_ends_at_the_end_of_its_input(bundle: Bundle) -> None:
    """Also if our input ends before the shell has taken over its terminal: what is typed before that is lost to it."""
    bundle.process["terminal"] = True
    for _ in range(4):
        bundle.run(args=["sh"])
