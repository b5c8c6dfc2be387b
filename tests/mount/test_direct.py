# SPDX-License-Identifier: Apache-2.0
"""What only the direct session does: data held back by the kernel (udba=none, no passthrough), birth times, idmapped mounts."""

import contextlib
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import syscalls
from tests.support.errnos import refused
from tests.support.union import Union, Workshop, eventually, unionfs
from unionfs.options.table import SWITCHES

pytestmark = pytest.mark.parametrize("union", ["direct"], indirect=True)

HELD_BACK = "udba=none" + (",nopassthrough" if "nopassthrough" in SWITCHES else "")
MEGABYTE = 1 << 20
LOWER = bytes(range(256)) * 40


@pytest.fixture
def u(union: Workshop) -> Union:
    """Give a union in which the kernel holds data back."""
    return union.mount(HELD_BACK, B0={"top": "t"}, B1={"f": LOWER, "g": LOWER})


def test_partial_page_written_by_a_write_only_handle_keeps_the_rest(u: Union) -> None:
    """The kernel reads the page through the writer's handle, which the caller opened for writing alone."""
    fd = os.open(u / "f", os.O_WRONLY)
    os.pwrite(fd, b"new", 5000)
    os.close(fd)
    expected = LOWER[:5000] + b"new" + LOWER[5003:]
    assert (u / "f").read_bytes() == expected
    assert (u.branch(0) / "f").read_bytes() == expected


@pytest.mark.parametrize("options", [HELD_BACK, "udba=none", "udba=reval"])
@pytest.mark.parametrize("name", ["new", "lower", "renamed", "linked", "removed"])
def test_attributes_change_while_a_writer_has_the_file(union: Workshop, options: str, name: str) -> None:
    """Whatever became of its names: what is changed through a path or a descriptor is what both and the branch show."""
    u = union.mount(options, B0={}, B1={"lower": LOWER})
    path = u / name
    if name == "renamed":
        (u / "lower").rename(path)
    with open(path, "r+b" if path.exists() else "w+b", buffering=0) as stream:
        stream.write(b"x" * 100)
        if name == "linked":
            (u / "other").hardlink_to(path)
        if name == "removed":
            path.unlink()
        place = f"/proc/{os.getpid()}/fd/{stream.fileno()}" if name == "removed" else str(path)
        os.chown(place, 12, 34)
        os.chmod(place, 0o640)
        os.utime(place, ns=(5_000_000_000, 6_000_000_007))
        subprocess.run(["touch", "-m", "-d", "@9", place], check=True)  # keeps the access time
        os.truncate(place, 50)
        os.utime(place, ns=(5_000_000_000, 8_000_000_009))
        seen = [os.fstat(stream.fileno())]
        if name != "removed":
            seen += [path.stat(), (u.branch(0) / name).stat()]
    for status in seen:
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777, status.st_size) == (12, 34, 0o640, 50)
        assert (status.st_atime_ns, status.st_mtime_ns) == (5_000_000_000, 8_000_000_009)


def test_appends_of_two_handles_follow_each_other(u: Union) -> None:
    """O_APPEND goes to the end as the kernel knows it, not as the branch does."""
    first = os.open(u / "f", os.O_WRONLY | os.O_APPEND)
    second = os.open(u / "f", os.O_WRONLY | os.O_APPEND)
    for number in range(20):
        os.write(first if number % 2 else second, b"%02d" % number)
    os.close(first)
    os.close(second)
    expected = LOWER + b"".join(b"%02d" % number for number in range(20))
    assert (u / "f").read_bytes() == expected
    assert (u.branch(0) / "f").read_bytes() == expected


def test_seek_finds_data_that_was_not_written_back(u: Union) -> None:
    """SEEK_DATA and SEEK_HOLE know of written data before anything was closed."""
    fd = os.open(u / "sparse", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, b"x" * 8192, MEGABYTE)
        assert os.lseek(fd, 0, os.SEEK_DATA) == MEGABYTE
        assert os.lseek(fd, MEGABYTE, os.SEEK_HOLE) == MEGABYTE + 8192
    finally:
        os.close(fd)


def test_times_set_after_a_write_stay(u: Union) -> None:
    """Writing back later does not move a time that was set, and the branch has it too."""
    fd = os.open(u / "f", os.O_RDWR)
    os.write(fd, b"data")
    os.utime(fd, (1000, 2000))
    os.close(fd)
    assert (u / "f").stat().st_mtime == 2000
    assert (u.branch(0) / "f").stat().st_mtime == 2000


def test_time_of_a_write_reaches_the_branch(u: Union) -> None:
    """The kernel keeps the time; at close the branch has the same."""
    with (u / "f").open("r+b") as file:
        file.write(b"data")
    assert (u / "f").stat().st_mtime_ns == (u.branch(0) / "f").stat().st_mtime_ns


def test_written_file_may_be_renamed_unlinked_and_truncated_before_close(u: Union) -> None:
    """Data held back follows the file, not the name."""
    renamed, gone, short = (os.open(u / name, os.O_RDWR | os.O_CREAT) for name in ("a", "b", "c"))
    for fd in (renamed, gone, short):
        os.write(fd, b"0123456789" * 1000)
    (u / "a").rename(u / "f")
    (u / "b").unlink()
    os.ftruncate(short, 5)
    os.pwrite(short, b"X", 7)
    assert os.pread(gone, 10, 9990) == b"0123456789"
    for fd in (renamed, gone, short):
        os.close(fd)
    assert (u.branch(0) / "f").read_bytes() == b"0123456789" * 1000
    assert (u.branch(0) / "c").read_bytes() == b"01234\0\0X"
    assert sorted(os.listdir(u.mnt)) == ["c", "f", "g", "top"]


def test_shared_mapping_of_a_lower_file_is_written_to_the_copy(u: Union) -> None:
    """A mapping made before the first write copies up too, and other names of the process see it."""
    with (u / "f").open("r+b") as file, mmap.mmap(file.fileno(), 0) as area:
        area[100:104] = b"MMAP"
        assert (u / "f").read_bytes()[100:104] == b"MMAP"
        area.flush()
        assert (u.branch(0) / "f").read_bytes()[100:104] == b"MMAP"
    assert (u.branch(1) / "f").read_bytes() == LOWER


def test_reader_from_before_the_copy_up_sees_the_new_data(u: Union) -> None:
    """AUFS' promise holds: there is one page cache for all who have the file open."""
    reader = os.open(u / "f", os.O_RDONLY)
    with (u / "f").open("r+b") as file:
        file.write(b"changed")
    assert os.pread(reader, 7, 0) == b"changed"
    os.close(reader)


def test_full_branch_is_told_at_open_or_at_the_end(union: Workshop) -> None:
    """A copy-up that does not fit fails at open; new data that does not fit fails at fsync or close."""
    top = union.filesystem("B0", data="mode=755,size=1m")
    u = union.mount(HELD_BACK, B0=top, B1={"big": bytes(4 * MEGABYTE)})
    with refused("ENOSPC"):
        os.open(u / "big", os.O_RDWR)
    synced, closed = (os.open(u / name, os.O_RDWR | os.O_CREAT) for name in ("synced", "closed"))
    for fd in (synced, closed):
        os.write(fd, bytes(2 * MEGABYTE))
    with refused("ENOSPC", "EIO"):
        os.fsync(synced)
    os.close(synced)
    with refused("ENOSPC", "EIO"):
        os.close(closed)
    assert (u / "big").read_bytes() == bytes(4 * MEGABYTE)


def test_direct_change_shows_after_a_refresh(union: Workshop) -> None:
    """udba=none promises that nobody changes branches; who did asks for a remount, and then even sizes are right."""
    u = union.mount(HELD_BACK, changing="B1", B0={}, B1={"f": "short"})
    assert (u / "f").read_text() == "short"
    (u.branch(1) / "f").write_text("much longer")
    unionfs("remount", u.mnt)
    assert (u / "f").read_text() == "much longer"
    assert (u / "f").stat().st_size == 11


def test_cold_big_and_synchronous_data_is_whole(u: Union) -> None:
    """What threads read from the disk and write to it is what was meant, in 1 MiB requests and less."""
    content = os.urandom(3 * MEGABYTE + 123)
    fd = os.open(u / "big", os.O_WRONLY | os.O_CREAT | os.O_DSYNC)
    os.write(fd, content)
    os.close(fd)
    u.remount()
    _evict(u.branch(0) / "big")
    assert (u / "big").read_bytes() == content


def _evict(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def test_statx_tells_the_birth_time(union: Workshop) -> None:
    """The birth time is that of the visible copy."""
    u = union.mount(B0={"top": "t"}, B1={"d/f": "f"})
    for name, branch in (("top", 0), ("d/f", 1), ("d", 1)):
        command = ["stat", "--format=%W", "--", str(u / name), str(u.branch(branch) / name)]
        shown, real = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert shown == real
    assert int(shown) > 0


def test_idmapped_clone_shows_and_takes_mapped_owners(union: Workshop) -> None:
    """An idmapped mount of the union: files of root are shown as 100000's, what 101000 makes there is 1000's."""
    u = union.mount(B0={}, B1={"f": "f"})
    u.mnt.chmod(0o777)
    target = union.root / "clone"
    target.mkdir()
    holder = subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo; read end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin and holder.stdout
    with holder:
        holder.stdout.readline()
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{kind}").write_text("0 100000 65536")
        namespace = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY)
        try:
            syscalls.bind_idmapped(str(u.mnt), str(target), namespace)
        except OSError as error:
            holder.stdin.close()
            pytest.skip(f"no idmapped FUSE mounts here: {error}")
        finally:
            os.close(namespace)
        holder.stdin.close()
    try:
        assert (target / "f").stat().st_uid == 100000
        script = "set -e; echo x > new; echo y >> new; : > new; mkdir dir; mv new dir/new; ls dir"
        done = subprocess.run(
            ["sh", "-c", script], cwd=target, user=101000, group=101000, extra_groups=[], capture_output=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"new\n", b"")
        assert (u.branch(0) / "dir/new").stat().st_uid == 1000
        assert (target / "dir/new").stat().st_gid == 101000
    finally:
        syscalls.umount2(str(target), syscalls.MNT_DETACH)


def test_write_of_a_stranger_takes_privileges_off_each_time(union: Workshop) -> None:
    """Through one open descriptor: set-id bits and capabilities given between two writes do not survive the second."""
    u = union.mount(HELD_BACK.replace("udba=none", "udba=reval"), B0={"f": "f"}, B1={})
    (u / "f").chmod(0o666)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    script = "exec 3>f; for n in 1 2 3; do read line; echo $n >&3; echo; done"
    with subprocess.Popen(
        ["sh", "-c", script], cwd=u.mnt, user=12345, group=12345, extra_groups=[],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as writer:  # fmt: skip
        assert writer.stdin and writer.stdout
        for mode in (0o666, 0o4777, 0o666):
            (u / "f").chmod(mode)
            os.setxattr(u / "f", "security.capability", capability)
            writer.stdin.write(b"\n")
            writer.stdin.flush()
            writer.stdout.readline()
            assert (u.branch(0) / "f").stat().st_mode & 0o7777 == mode & 0o777
            assert "security.capability" not in os.listxattr(u.branch(0) / "f")


def _policies(u: Union) -> dict[int, int]:
    """Return the scheduling policies of the server's threads by their number."""
    policies = {}
    for path in Path(f"/proc/{u.pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # one that had nothing to do for a while has ended
            policies[int(path.name)] = os.sched_getscheduler(int(path.name))
    return policies


# A server that may leave SCHED_IDLE again, and one that may not and has a thread of its own for it.
NICE = pytest.mark.parametrize("dropped", [[], ["sys_nice"]], ids=["nice", "not-nice"])


@NICE
@pytest.mark.parametrize("processors", [1, 2])
def test_busy_client_does_not_bind_the_server(union: Workshop, processors: int, dropped: list[str]) -> None:
    """A server that goes where its client runs stays free to run wherever it might before, and answers right."""
    ours = os.sched_getaffinity(0)
    if len(ours) < processors:
        pytest.skip("not so many processors")
    chosen = set(sorted(ours)[:processors])
    u = union.prepare("udba=none", "", {"B0": {}, "B1": {f"d/f{n}": "" for n in range(3000)}})
    u.dropped = dropped
    os.sched_setaffinity(0, chosen)
    try:
        u.start()
    finally:
        os.sched_setaffinity(0, ours)
    assert all((u.mnt / f"d/f{n}").stat().st_size == 0 for n in range(3000))
    assert not any((u.mnt / f"d/absent{n}").exists() for n in range(3000))
    eventually(
        lambda: all(os.sched_getaffinity(thread) == chosen for thread in _policies(u)),
        "the server is bound to no processor",
    )
    eventually(
        lambda: list(_policies(u).values()).count(os.SCHED_IDLE) <= len(dropped),
        "the server no longer lets the client go first",
    )
    assert os.sched_getscheduler(u.pid) == os.SCHED_OTHER


@NICE
def test_threads_started_for_a_busy_client_are_ordinary(union: Workshop, dropped: list[str]) -> None:
    """The server may let a busy client go before it; what it starts meanwhile must not inherit that."""
    trees = {"B0": {f"f{n}": "" for n in range(300)}, "B1": {"big": "x" * 4_000_000}}
    u = union.prepare("udba=none", "", trees)
    u.dropped = dropped
    u.start()
    for n in range(300):
        (u / f"f{n}").stat()
        if n % 20 == 0:
            with open(u / f"f{n}", "r+b") as stream:
                os.fsync(stream.fileno())
    with open(u / "big", "ab") as stream:
        stream.write(b"y")
    policies = _policies(u)
    assert len(policies) > 2  # those that wrote back and copied
    assert list(policies.values()).count(os.SCHED_IDLE) <= len(dropped)
    assert (u.branch(0) / "big").stat().st_size == 4_000_001


# Processes that keep the server busy, write, and start a program: execve(2) closes the file, and that writes it back.
BUSY_AND_GONE = """
import os, sys
for n in range(150):
    pid = os.fork()
    if pid == 0:
        fd = os.open(f"w{n % 7}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        for k in range(25):
            os.path.exists(f"absent{n}-{k}")
        os.write(fd, bytes(5000))
        for k in range(n % 12):
            os.path.exists(f"gone{n}-{k}")
            os.chmod(fd, 0o600 + k % 8)
            os.chown(fd, k, k)
        os.execv("/bin/true", ["true"])
    os.waitpid(pid, 0)
"""


@NICE
def test_client_that_closes_its_files_in_execve_is_answered(union: Workshop, dropped: list[str]) -> None:
    """Its processor is not told before execve has ended, which waits for the server: one that asked hung for ever."""
    u = union.prepare(HELD_BACK, "", {"B0": {}, "B1": {}})
    u.dropped = dropped
    u.start()
    command = [sys.executable, "-c", BUSY_AND_GONE]
    with subprocess.Popen(command, cwd=u.mnt) as clients:
        try:
            assert clients.wait(60) == 0
        except subprocess.TimeoutExpired:
            syscalls.umount2(str(u.mnt), syscalls.MNT_FORCE | syscalls.MNT_DETACH)  # nothing else ends it
            raise
    assert {(u.branch(0) / f"w{n}").stat().st_size for n in range(7)} == {5000}


def test_removing_a_lower_file_copies_nothing_up(union: Workshop) -> None:
    """The kernel hands over the times of a file whose name was removed; that is no write."""
    u = union.mount(HELD_BACK, B0={}, B1={f"d/f{n}": LOWER for n in range(20)})
    for n in range(20):
        (u / f"d/f{n}").unlink()
    assert u.status()["counters"]["copy_ups"] == 0


@NICE
def test_server_that_was_started_behind_everybody_answers_what_takes_a_thread(
    union: Workshop, dropped: list[str]
) -> None:
    """A thread that tried to leave that policy without being allowed to ended, and its request was never answered."""
    u = union.prepare("udba=none,nopassthrough", "", {"B0": {"f": "f"}, "B1": {"low": "x" * 4_000_000}})
    u.dropped = dropped
    u.launcher = ["chrt", "--idle", "0"]
    u.start()
    with open(u / "f", "r+b", buffering=0) as stream:
        stream.write(b"new")
        os.fsync(stream.fileno())
    with open(u / "low", "ab") as stream:
        stream.write(b"y")
    assert (u.branch(0) / "f").read_text() == "new"
    assert set(_policies(u).values()) == {os.SCHED_IDLE}
