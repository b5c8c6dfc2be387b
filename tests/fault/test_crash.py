# SPDX-License-Identifier: Apache-2.0
"""What a disk has after a crash: ext4 is told to stop at once (EXT4_IOC_SHUTDOWN) and mounted again."""

import fcntl
import os
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support.union import Workshop, unionfs
from unionfs.branches.branch import Branch
from unionfs.branches.copydata import Deferred
from unionfs.filesystem import UnionFilesystem
from unionfs.kernel import syscalls
from unionfs.kernel.durability import WriteBack, write_back_before_name
from unionfs.operations.create import Caller
from unionfs.options.aufs import Options
from unionfs.tree.port import NoSession

_EXT4_IOC_SHUTDOWN = 0x8004587D
_WITHOUT_LOG_FLUSH = (2).to_bytes(4, "little")
_CONTENT = os.urandom(100_000)


class _Impatient(NoSession):
    """A session that has longer copies than this made by threads."""

    inline_limit: int | None = 10_000


def _crash(filesystem: Path) -> None:
    """Stop a filesystem as a power failure would; what its journal has not committed is lost."""
    fd = os.open(filesystem, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, _WITHOUT_LOG_FLUSH)
    except OSError as error:
        pytest.skip(f"no shutdown of ext4 here: {error.strerror}")
    finally:
        os.close(fd)


def _mount_again(filesystem: Path) -> None:
    subprocess.run(["umount", filesystem], check=True)
    subprocess.run(["mount", "-o", "loop", f"{filesystem}.image", filesystem], check=True)


def _commit(filesystem: Path) -> None:
    """Have the journal commit what was done so far, without writing other files' data, as any program's fsync does."""
    fd = os.open(filesystem / "other", os.O_WRONLY | os.O_CREAT)
    os.fsync(fd)
    os.close(fd)


@pytest.mark.parametrize("option", ["fsync", "nofsync"])
def test_copies_after_a_crash_are_whole(union: Workshop, option: str) -> None:
    """The names are on the disk, so the data must be. With `nofsync` it need not, and is not."""
    top = union.block_device("B0", 64)
    names = [f"f{n}" for n in range(40)]
    u = union.prepare(option, "", {"B0": top, "B1": dict.fromkeys(names, _CONTENT)})
    u.start()
    for name in names:
        (u / name).chmod(0o600)
        if name == "f30":
            _commit(top)
    _crash(top)
    u.kill()
    _mount_again(top)
    found = [path for path in top.iterdir() if path.name in names]
    assert len(found) >= 31
    whole = [path.read_bytes() == _CONTENT for path in found]
    assert all(whole) if option == "fsync" else not all(whole)


@pytest.mark.parametrize(
    ("options", "order"), [((), syscalls.write_back), (("-O", "^has_journal"), os.fdatasync)]
)
def test_order_is_relied_on_only_with_a_journal(
    union: Workshop, options: tuple[str, ...], order: WriteBack
) -> None:
    """Without one a name may reach the disk before data that was written."""
    fd = os.open(union.block_device("B0", 64, "ext4", *options), os.O_PATH)
    try:
        assert write_back_before_name(fd) is order
    finally:
        os.close(fd)


@pytest.mark.parametrize(("options", "waits"), [((), False), (("-O", "^has_journal"), True)])
def test_small_copies_wait_for_a_quick_disk_only(
    union: Workshop, options: tuple[str, ...], waits: bool
) -> None:
    """What may take long goes to a thread: more than the limit, and all that has to be synchronized."""
    branches = [
        Branch(str(union.block_device("B0", 64, "ext4", *options)), "rw"),
        Branch(str(union.directory("B1", {"small": "s" * 1000, "large": "l" * 10_001})), "ro"),
    ]
    filesystem = UnionFilesystem.open(branches, Options(udba="none"))
    try:
        filesystem.attach(_Impatient())
        for name, deferred in ((b"small", waits), (b"large", True)):
            node = filesystem.lookup(filesystem.node(1), name, Caller(0, 0, 0)).node
            with pytest.raises(Deferred) if deferred else nullcontext():
                filesystem.make_writable(node, os.O_WRONLY)
            assert (Path(branches[0].path) / os.fsdecode(name)).exists() is not deferred
    finally:
        filesystem.close()


@pytest.mark.parametrize("command", ["commit", "mvdown"])
def test_file_folded_to_another_filesystem_after_a_crash_is_there(union: Workshop, command: str) -> None:
    """The upper filesystem had committed that the file is gone, the lower one nothing of its own accord: it was made to."""
    top, base = union.block_device("B0", 64), union.block_device("B1", 64)
    permission = "rw" if command == "mvdown" else "ro+wh"
    u = union.prepare(f"br:{{B0}}=rw:{{B1}}={permission},nowarn_perm", "B1", {"B0": top, "B1": base})
    u.start()
    (u / "d/e").mkdir(parents=True)
    with (u / "d/e/f").open("wb") as file:
        file.write(_CONTENT)
        os.fsync(file.fileno())
    os.sync()
    if command == "commit":
        unionfs("commit", u.mnt, base)
    else:
        unionfs("mvdown", u / "d/e/f")
    assert not (top / "d/e/f").exists()
    _commit(top)
    _crash(base)
    _crash(top)
    u.kill()
    for filesystem in (top, base):
        _mount_again(filesystem)
    u.start()
    assert (u / "d/e/f").read_bytes() == _CONTENT
