# SPDX-License-Identifier: Apache-2.0
"""Run-time directories that other users plant, and servers of other users that answer what they like."""

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import CAN_MOUNT
from tests.support import syscalls
from tests.support.place import Place, refused
from tests.support.union import Workshop, unionfs
from unionfs.kernel import mount_table
from unionfs.live import registry
from unionfs.server.mount import wait_for_end

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs root and /dev/fuse")

USER = 4_000_000 + os.getpid()  # nobody else's, not that of a test beside this one either
STATUS = {
    "mountpoint": "/m\033[2J", "id": "\033]0;x\007", "run_directory": "/r\n", "pid": 1, "session": "\033[31mdirect",
    "session_reason": "\x9b31m", "options": ["si=\033[1m"], "counters": {"\033[5mnodes": 1},
    "branches": [{"index": 0, "id": 64, "branch": "/b\u2028\033[31m=rw"}],
    "passthrough": {"on": False, "reason": "\033[32mno", "opens": 0, "fallbacks": 0, "registered": 0},
}  # fmt: skip


def _device(mountpoint: Path) -> str:
    found = mount_table.find(str(mountpoint))
    assert found is not None
    return found.device


@contextlib.contextmanager
def _planted(device: str, answer: bytes, branches: str = "/=rw") -> Iterator[Path]:
    """Plant a run-time directory of USER's for the mount `device`, with a server that gives everybody one answer."""
    top = Path(f"/tmp/unionfs-{USER}")
    directory = top / "unionfs/si_0123456789abcdef"
    directory.mkdir(parents=True)
    for name, text in (("br0", branches), ("mountpoint", "/nowhere"), ("dev", device), ("pid", "1")):
        (directory / name).write_text(text + "\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "control"))
        listener.listen()
        threading.Thread(target=_answer, args=(listener, answer), daemon=True).start()
        for path in (top, top / "unionfs", directory, directory / "control"):
            os.chown(path, USER, USER)
            path.chmod(0o755)
        try:
            yield directory
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            shutil.rmtree(top)


def _answer(listener: socket.socket, answer: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            if connection.recv(1 << 16):
                connection.sendall(answer)


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """Give a mount point where USER's union seems to be: a FUSE mount of theirs that nobody serves."""
    target = tmp_path / "theirs"
    target.mkdir()
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={fd},rootmode=40000,user_id={USER},group_id={USER}"
    syscalls.mount("none", str(target), "fuse.unionfs", 0, data)
    try:
        yield target
    finally:
        syscalls.umount2(str(target), syscalls.MNT_DETACH)
        os.close(fd)


def test_planted_directory_does_not_stop_a_repair(union: Workshop, tmp_path: Path) -> None:
    """root's check --repair asks nobody but root's own unions, even if a user claims to have / as a branch."""
    u = union.mount("br:{B0}=rw:{B1}=ro", B0={}, B1={})
    unused = tmp_path / "unused"
    unused.mkdir()
    (unused / "a").touch()
    (unused / ".wh.a").touch()
    with _planted(_device(u.mnt), b'{"ok": true, "result": null}\n'):
        unionfs("check", "--repair", unused)
    assert [path.name for path in unused.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "words", [["branch", "append"], ["status"], ["branch", "list"], ["remount"], ["flush"]]
)
def test_planted_directory_does_not_answer_for_a_dead_server(place: Place, words: list[str]) -> None:
    """When root's server was killed, nobody else's socket is asked: the command says that the server is dead."""
    unionfs("mount", "-o", place.options, place.mnt)
    pid = json.loads(unionfs("status", "--json", place.mnt).stdout)["pid"]
    with _planted(_device(place.mnt), json.dumps({"ok": True, "result": STATUS}).encode() + b"\n"):
        os.kill(pid, 9)
        wait_for_end(pid)
        more = ["/etc=ro"] if words == ["branch", "append"] else []
        refused(unionfs(*words, place.mnt, *more, check=False), "does not answer")


def test_answer_of_another_users_server_controls_no_terminal(foreign: Path) -> None:
    """Who mounted a union chose its server; root sees what it says, escaped."""
    with _planted(_device(foreign), json.dumps({"ok": True, "result": STATUS}).encode() + b"\n"):
        for words in (["status"], ["branch", "list"], ["status", "--json"]):
            shown = unionfs(*words, foreign).stdout
            assert all(c.isprintable() or c == "\n" for c in shown), ascii(shown)
            assert "=rw" in shown


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"\n", b"x\n", b"[]\n", b"{}\n", b'{"ok": true}\n', b'{"ok": 1, "result": {}}\n', b'{"ok": false}\n',
        b'{"ok": false, "errno": "x", "message": []}\n', b'{"ok": false, "errno": -7, "message": ""}\n',
        b"[" * 100_000 + b"\n", b'{"ok": true, "result": {"branches": [{"index": "a"}]}}\n', b"\xff\xfe\n",
        json.dumps({"ok": True, "result": STATUS | {"counters": [1]}}).encode() + b"\n",
        json.dumps({"ok": True, "result": STATUS | {"pid": True}}).encode() + b"\n",
        json.dumps({"ok": True, "result": STATUS | {"passthrough": {}}}).encode() + b"\n",
        b'{"ok": false, "errno": 5, "message": "no\\u001b[31m\\nroot: done"}\n',
    ],
)  # fmt: skip
def test_nonsense_of_another_users_server_is_one_line(foreign: Path, answer: bytes) -> None:
    """An answer of another shape is an error in one line, without a traceback or control characters."""
    with _planted(_device(foreign), answer):
        done = unionfs("status", foreign, check=False)
    refused(done, "unionfs: ")
    assert done.stderr.rstrip("\n").isprintable()
    assert done.stdout == ""


def test_commit_of_another_users_union_is_refused(foreign: Path, tmp_path: Path) -> None:
    """Its server would say which directory root copies from and empties."""
    top, target = tmp_path / "top", tmp_path / "target"
    for path in (top, target):
        path.mkdir()
    (top / "precious").touch()
    rows = [{"index": n, "id": 64 + n, "branch": f"{path}=rw"} for n, path in enumerate((top, target))]
    with _planted(
        _device(foreign), json.dumps({"ok": True, "result": STATUS | {"branches": rows}}).encode() + b"\n"
    ):
        refused(unionfs("commit", foreign, target, check=False), "was mounted by another user")
    assert (top / "precious").exists() and not any(target.iterdir())


def _open_to_others(directory: Path) -> None:
    directory.chmod(0o777)


def _of_group(directory: Path) -> None:
    directory.chmod(0o770)


def _of_another(directory: Path) -> None:
    os.chown(directory, USER + 1, 0)


def _linked(directory: Path) -> None:
    directory.rename(directory.with_name("real"))
    directory.symlink_to("real")


@pytest.mark.parametrize("spoil", [_open_to_others, _of_group, _of_another, _linked])
@pytest.mark.parametrize("where", ["a", "a/b", "a/b/unionfs"])
def test_directory_that_others_can_exchange_is_not_believed(
    tmp_path: Path, spoil: Callable[[Path], None], where: str
) -> None:
    """Every directory on the way must be the owner's or root's, no link, and closed to others."""
    path = tmp_path / "a/b/unionfs"
    path.mkdir(parents=True)
    os.chown(path, USER, USER)
    os.close(registry.open_trusted(path, USER))
    spoil(tmp_path / where)
    if spoil is _linked and where == "a":
        os.close(registry.open_trusted(path, USER))  # above where such directories are: the administrator's
        return
    with pytest.raises(OSError, match=r"may change it|Not a directory"):
        registry.open_trusted(path, USER)


def test_directory_below_a_sticky_one_is_believed(tmp_path: Path) -> None:
    """In /tmp nobody can take away or replace what is another's."""
    path = tmp_path / "tmp/unionfs-0/unionfs"
    path.mkdir(parents=True)
    (tmp_path / "tmp").chmod(0o1777)
    os.close(registry.open_trusted(path, 0))


def test_server_that_answers_nobody_holds_up_no_other_command(union: Workshop, tmp_path: Path) -> None:
    """A stopped server lets connections wait; commands on something else go by, and its own see that it is there."""
    u = union.mount("br:{B0}=rw:{B1}=ro", B0={}, B1={})
    (tmp_path / "a").touch()
    (tmp_path / ".wh.a").touch()
    found = registry.find(str(u.mnt))
    os.kill(u.pid, signal.SIGSTOP)
    waiting = []
    try:
        with found, contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                waiting[-1].setblocking(False)
                found.connect(waiting[-1])
        unionfs("check", "-r", tmp_path, timeout=20)
        registry.find(str(u.mnt)).__exit__(None, None, None)
    finally:
        os.kill(u.pid, signal.SIGCONT)
        for connection in waiting:
            connection.close()
    assert not (tmp_path / ".wh.a").exists()


def test_files_that_are_no_files_are_not_waited_for(tmp_path: Path) -> None:
    """A FIFO, a link or a directory where a file belongs reads as nothing."""
    parent = tmp_path / "unionfs"
    directory = parent / "si_1"
    directory.mkdir(parents=True)
    os.mkfifo(directory / "dev")
    (directory / "pid").symlink_to("/proc/self/stat")
    (directory / "br0").mkdir()
    seen = [
        (found.read("dev"), found.pid, list(registry.branches_of(found)))
        for found in registry.entries(parent, 0)
    ]
    assert seen == [("", 0, [])]


def test_log_line_is_one_line_whatever_a_name_holds(tmp_path: Path) -> None:
    """Clients choose the names that warnings of the server tell of."""
    log, odd = tmp_path / "log", tmp_path / "two-\033[31m\nroot"
    for name in ("rw", "ro", "mnt"):
        (odd / name).mkdir(parents=True)
    os.chown(odd / "ro", 1, 1)  # the server warns of it, by its path
    unionfs("mount", "--log-file", log, "-o", f"br:{odd}/rw=rw:{odd}/ro", odd / "mnt")
    unionfs("umount", odd / "mnt")
    text = log.read_text()
    assert "ro: owner or mode differ" in text
    assert all(line.isprintable() for line in text.split("\n"))
