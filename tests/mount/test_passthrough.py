# SPDX-License-Identifier: Apache-2.0
"""Passthrough in the direct session: the kernel reads, writes and maps branch files itself, and all looks as without it."""

import errno
import fcntl
import json
import mmap
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import syscalls
from tests.support.errnos import refused
from tests.support.union import Union, Workshop, eventually, unionfs

pytestmark = pytest.mark.parametrize("union", ["direct"], indirect=True)

BIG = bytes(range(256)) * 1024  # 256 KiB


def state(u: Union) -> dict[str, Any]:
    """Return what `unionfs status` says of passthrough; the mount answers a moment before its control socket is known."""
    said = ""

    def answered() -> bool:
        nonlocal said
        done = unionfs("status", "--json", u.mnt, check=False)
        said = done.stdout
        return done.returncode == 0

    eventually(answered, "an answer of the control socket")
    answer = json.loads(said)["passthrough"]
    assert isinstance(answer, dict)
    return answer


def counts(u: Union) -> dict[str, int]:
    """Return how many requests of each kind there were."""
    rows = json.loads(unionfs("stats", "--json", u.mnt).stdout)
    return {kind: row["count"] for kind, row in rows.items()}


def passing(u: Union) -> Union:
    """Return the union, or skip the test where the kernel or the server's rights forbid passthrough."""
    now = state(u)
    if not now["on"]:
        pytest.skip(f"no passthrough: {now['reason']}")
    return u


@pytest.fixture
def u(union: Workshop) -> Union:
    """Give a union with an upper file and a lower one."""
    return passing(union.mount("udba=none", B0={"up": "upper"}, B1={"low": BIG}))


def test_reads_and_writes_make_no_requests(u: Union) -> None:
    """Upper, lower and new files: neither READ nor WRITE reaches the server, and the branch has what was written."""
    assert (u / "up").read_text() == "upper"
    assert (u / "low").read_bytes() == BIG
    (u / "new").write_bytes(BIG)
    with (u / "up").open("ab") as file:
        file.write(b"+more")
    assert (u.branch(0) / "new").read_bytes() == BIG
    assert (u.branch(0) / "up").read_bytes() == b"upper+more"
    assert not counts(u).keys() & {"read", "write"}
    assert state(u)["opens"] == 4 and state(u)["fallbacks"] == 0


def test_registration_lasts_from_the_first_open_to_the_last_release(u: Union) -> None:
    """Three opens of one file share a registration; none is left afterwards."""
    fds = [os.open(u / "up", flags) for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND)]
    assert state(u)["registered"] == 1
    other = os.open(u / "low", os.O_RDONLY)
    assert state(u)["registered"] == 2
    for fd in (*fds, other):
        os.close(fd)
    eventually(lambda: state(u)["registered"] == 0, "release")
    assert u.status()["counters"]["handles"] == 0


def _append(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    os.pwrite(fd, b"one", 0)  # Linux appends this too
    os.write(fd, b"two")
    os.close(fd)


def _truncate(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    os.truncate(path, 5)
    assert os.pread(fd, 100, 0) == BIG[:5]
    os.ftruncate(fd, 9)
    os.pwrite(fd, b"end", 9)
    assert os.fstat(fd).st_size == 12
    os.close(fd)


def _truncating_open(path: Path) -> None:
    reader = os.open(path, os.O_RDONLY)
    with path.open("wb") as file:
        file.write(b"short")
    assert os.fstat(reader).st_size == os.stat(path).st_size == 5
    os.close(reader)


def _holes(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"x", 1 << 20)
    data = os.lseek(fd, 0, os.SEEK_DATA)
    syscalls.fallocate(fd, syscalls.FALLOC_FL_KEEP_SIZE, 2 << 20, 4096)
    assert data == 1 << 20 and os.fstat(fd).st_size == (1 << 20) + 1
    os.close(fd)


def _copy_range(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    assert os.copy_file_range(fd, fd, 4096, 0, len(BIG)) == 4096
    assert os.pread(fd, 4096, len(BIG)) == BIG[:4096]
    os.close(fd)


def _mapping(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 8192) as shared:
        os.close(fd)
        shared[4000:4200] = b"m" * 200
        with path.open("rb") as reader:
            assert reader.read()[4000:4200] == b"m" * 200
        with path.open("r+b") as writer:
            writer.write(b"w" * 100)
        assert shared[:100] == b"w" * 100


@pytest.mark.parametrize(
    "change",
    [_append, _truncate, _truncating_open, _holes, _copy_range, _mapping],
    ids=lambda f: f.__name__[1:],
)
def test_change_gives_what_a_plain_file_gives(
    u: Union, union: Workshop, change: Callable[[Path], None]
) -> None:
    """The same calls on an upper file, on a lower one and on a plain one end in the same content and size."""
    plain = union.directory("plain") / "f"
    shutil.copyfile(u.branch(1) / "low", plain)
    shutil.copyfile(u.branch(1) / "low", u / "copy")
    for path in (plain, u / "copy", u / "low"):
        change(path)
    for name in ("copy", "low"):
        assert (u / name).read_bytes() == (u.branch(0) / name).read_bytes() == plain.read_bytes()
        assert os.stat(u / name).st_size == os.stat(plain).st_size
    assert (u.branch(1) / "low").read_bytes() == BIG


def test_write_shows_in_the_attributes_at_once(u: Union) -> None:
    """Size and times are right for every name and descriptor although attributes may be cached for ever (udba=none)."""
    os.utime(u / "up", ns=(0, 0))
    os.link(u / "up", u / "other")
    reader = os.open(u / "other", os.O_RDONLY)
    with (u / "up").open("ab", buffering=0) as file:
        for size in range(6, 20):
            file.write(b".")
            now = os.stat(u.branch(0) / "up")
            for status in (os.stat(u / "up"), os.stat(u / "other"), os.fstat(reader)):
                assert (status.st_size, status.st_mtime_ns) == (size, now.st_mtime_ns)
    os.close(reader)


def test_write_through_a_mapping_shows_in_the_time_after_close(u: Union) -> None:
    """The kernel does not notice such writes; RELEASE makes it ask again."""
    with (u / "new").open("w+b") as file:
        file.write(bytes(4096))
        file.flush()
        os.utime(u / "new", ns=(0, 0))
        with mmap.mmap(file.fileno(), 4096) as shared:
            assert os.stat(u / "new").st_mtime_ns == 0
            shared[:3] = b"abc"
            shared.flush()
    written = os.stat(u.branch(0) / "new").st_mtime_ns
    assert written > 0
    eventually(lambda: os.stat(u / "new").st_mtime_ns == written, "the new time")


def test_write_by_an_unprivileged_user_clears_set_id_bits(u: Union) -> None:
    """The kernel asks by a SETATTR with nothing in it; file capabilities go too."""
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    (u / "s").write_text("program")
    os.chmod(u / "s", 0o6777)
    (u / "c").write_text("program")
    os.chmod(u / "c", 0o777)
    os.setxattr(u / "c", "security.capability", capability)
    code = "import sys\nfor path in sys.argv[1:]:\n    open(path, 'r+b', buffering=0).write(b'P')"
    run = [
        "setpriv",
        "--reuid=12345",
        "--regid=12345",
        "--clear-groups",
        sys.executable,
        "-I",
        "-S",
        "-c",
        code,
    ]
    subprocess.run([*run, str(u / "s"), str(u / "c")], check=True)
    assert (u / "s").read_text() == "Program"
    assert stat.S_IMODE(os.stat(u / "s").st_mode) == 0o777
    assert stat.S_IMODE(os.stat(u.branch(0) / "s").st_mode) == 0o777
    with refused("ENODATA"):
        os.getxattr(u / "c", "security.capability")


def test_removed_and_replaced_open_files_keep_their_data(u: Union) -> None:
    """Unlink and rename-over while open: the descriptor goes on with its file, the name with the new one."""
    for name in ("up", "low"):
        first = (u / name).read_bytes()
        fd = os.open(u / name, os.O_RDONLY)
        (u / "fresh").write_text("fresh")
        os.rename(u / "fresh", u / name)
        assert (u / name).read_text() == "fresh"
        assert os.pread(fd, 1 << 20, 0) == first
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        assert os.pread(again, 1 << 20, 0) == first
        fds = [fd, again, os.open(u / name, os.O_RDWR)]
        os.unlink(u / name)
        os.pwrite(fds[2], b"written", 0)
        assert os.pread(fds[2], 10, 0) == b"written" and os.fstat(fds[2]).st_nlink == 0
        for one in fds:
            os.close(one)
    assert (u.branch(1) / "low").read_bytes() == BIG


def test_unnamed_file_passes_through_and_can_be_linked(u: Union) -> None:
    """O_TMPFILE."""
    fd = os.open(u.mnt, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, BIG)
    directory = os.open(u.mnt, os.O_PATH)
    os.link(f"/proc/self/fd/{fd}", "named", dst_dir_fd=directory, follow_symlinks=True)
    os.close(directory)
    os.pwrite(fd, b"!", 0)
    assert (u / "named").read_bytes() == (u.branch(0) / "named").read_bytes() == b"!" + BIG[1:]
    os.close(fd)
    assert "write" not in counts(u)


def test_program_of_a_lower_branch_runs(u: Union) -> None:
    """exec, page faults and the shared libraries' way of mapping."""
    program = u.branch(0) / "true"
    shutil.copy("/bin/true", program)
    assert subprocess.run([u / "true"], check=False).returncode == 0
    assert "read" not in counts(u)


def test_option_nopassthrough_leaves_data_to_the_server(union: Workshop) -> None:
    """`status` says why, and the option shows in the list."""
    u = union.mount("nopassthrough", B0={}, B1={"low": BIG})
    assert state(u)["on"] is False and "nopassthrough" in state(u)["reason"]
    assert "nopassthrough" in u.status()["options"]
    assert (u / "low").read_bytes() == BIG
    assert counts(u)["read"] > 0
    assert "through the server: not wanted" in unionfs("status", u.mnt).stdout
    assert u.change("passthrough").returncode != 0


@pytest.mark.parametrize("name", ["up", "low", "new"])
def test_direct_io_switched_off_takes_any_length(u: Union, name: str) -> None:
    """O_DIRECT can be taken off a descriptor by fcntl (dd does for its last block), on files that others have open too."""
    (u / "up").write_bytes(BIG)
    plain = os.open(u / ("low" if name == "new" else name), os.O_RDONLY)
    fd = os.open(u / name, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    with mmap.mmap(-1, 4096) as buffer:
        buffer[:] = b"d" * 4096
        assert os.pwritev(fd, [buffer], 0) == 4096
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)
        assert os.pwrite(fd, b"tail", 4096) == 4
        assert os.pread(fd, 6, 4095) == b"dtail" + (b"" if name == "new" else BIG[4100:4101])
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        assert os.preadv(fd, [buffer], 0) == 4096 and buffer[:] == b"d" * 4096
    expected = b"d" * 4096 + b"tail" + (b"" if name == "new" else BIG[4100:])
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as shared:
        assert shared[:] == expected
    if name == "up":
        assert os.pread(plain, len(BIG), 0) == expected
    os.close(plain)
    os.close(fd)
    assert (u / name).read_bytes() == (u.branch(0) / name).read_bytes() == expected
    assert (u.branch(1) / "low").read_bytes() == BIG


def test_direct_copy_of_an_odd_length_is_whole(u: Union, union: Workshop) -> None:
    """`dd oflag=direct` and `iflag=direct` copy every byte, to and from upper and lower files."""
    source = union.directory("plain") / "in"
    source.write_bytes(BIG[:10100])
    (u / "part").write_bytes(BIG[:10100])
    for number, (path, flag) in enumerate(
        ((source, "oflag=direct"), (u / "part", "iflag=direct"), (u / "low", "iflag=direct"))
    ):
        target = u / f"out{number}"
        subprocess.run(["dd", f"if={path}", f"of={target}", "bs=4096", flag, "status=none"], check=True)
        assert target.read_bytes() == (u.branch(0) / target.name).read_bytes() == Path(path).read_bytes()


def _overlay(union: Workshop, name: str) -> Path:
    below = union.filesystem(name)
    for part in ("lower", "upper", "work", "mnt"):
        (below / part).mkdir()
    (below / "lower/low").write_bytes(BIG)
    data = f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work"
    syscalls.mount("none", str(below / "mnt"), "overlay", 0, data)
    return below / "mnt"


def test_branch_on_overlayfs_falls_back_and_is_counted(union: Workshop) -> None:
    """A mount that overlayfs may have as a layer cannot pass through to overlayfs; other files go on passing."""
    stacked = _overlay(union, "stack")
    u = passing(union.mount(B0={"up": "upper"}))
    assert u.change(f"append:{stacked}=ro").returncode == 0
    for _ in range(2):
        assert (u / "low").read_bytes() == BIG
    assert (u / "up").read_text() == "upper"
    assert (state(u)["opens"], state(u)["fallbacks"]) == (1, 2)
    with (u / "low").open("r+b") as file:
        file.write(b"changed")
    assert (u / "low").read_bytes() == (u.branch(0) / "low").read_bytes() == b"changed" + BIG[7:]


def test_union_is_a_layer_of_overlayfs_if_it_is_to_be(union: Workshop) -> None:
    """The stacking depth is 1 with `stackable` and where nothing is writable, else 2; a branch on overlayfs needs 2."""
    wanted = passing(union.mount("stackable", B0={"f": "f"}, B1={"low": BIG}))
    assert (wanted / "low").read_bytes() == BIG
    plain = passing(union.mount("br:{C0}=ro", branches={"C0": union.directory("C0", {"f": "f"})}))
    plain.allowed_log.append("the first branch is not rw")
    default = passing(union.mount("br:{D0}=rw", branches={"D0": union.directory("D0", {"f": "f"})}))
    stacked = _overlay(union, "stack")
    shutil.copy("/bin/true", stacked / "true")
    deep = passing(
        union.mount("stackable,br:{E0}=rw:{E1}=ro", branches={"E0": union.directory("E0"), "E1": stacked})
    )
    assert subprocess.run([deep / "true"], check=False).returncode == 0
    assert (deep / "low").read_bytes() == BIG
    assert (state(deep)["opens"], state(deep)["fallbacks"]) == (1, 1)
    place = union.filesystem("place")
    (place / "upper").mkdir()
    (place / "work").mkdir()
    (place / "mnt").mkdir()
    for u, allowed in ((wanted, True), (plain, True), (default, False), (deep, False)):
        data = f"lowerdir={u.mnt},upperdir={place}/upper,workdir={place}/work"
        try:
            syscalls.mount("none", str(place / "mnt"), "overlay", 0, data)
        except OSError as error:
            assert not allowed and error.errno == errno.EINVAL
        else:
            assert allowed and (place / "mnt/f").read_text() == "f"
            syscalls.umount2(str(place / "mnt"))


def test_server_without_rights_says_so(union: Workshop) -> None:
    """The capability counts in the first user namespace only; both are checked before anything is promised."""
    code = "from unionfs.session.direct.passthrough import refusal; print(refusal())"
    python = [sys.executable, "-c", code]
    inside = subprocess.run(
        ["unshare", "--user", "--map-root-user", *python], capture_output=True, text=True, check=True
    )
    without = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--", *python], capture_output=True, text=True, check=True
    )
    assert "user namespace" in inside.stdout and "CAP_SYS_ADMIN" in without.stdout


def test_setgid_write_by_root_keeps_the_bits(u: Union) -> None:
    """Root's own writes clear nothing, as on a plain file."""
    (u / "s").write_text("program")
    os.chmod(u / "s", 0o6755)
    with (u / "s").open("r+b") as file:
        file.write(b"P")
    assert stat.S_IMODE(os.stat(u / "s").st_mode) == 0o6755


def test_first_open_races_last_release(u: Union) -> None:
    """Threads open and close the same files at once: every open succeeds, and no registration is left."""
    failures: list[BaseException] = []

    def work(which: int) -> None:
        try:
            for _ in range(200):
                with (u / "up").open("r+b", buffering=0) as file:
                    os.pwrite(file.fileno(), b"%d" % which, 10 + which)
                with (u / "low").open("rb", buffering=0) as file:
                    assert file.read(16) == BIG[:16]
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert (u.branch(0) / "up").read_bytes() == b"upper" + bytes(5) + b"0123"
    eventually(lambda: state(u)["registered"] == 0, "release")
    assert state(u)["opens"] == 1600 and state(u)["fallbacks"] == 0
