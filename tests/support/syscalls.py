# SPDX-License-Identifier: Apache-2.0
"""The few system calls that the tests need and Python 3.11 lacks; independent of the code under test."""

import ctypes
import os
import signal
import struct

CLONE_NEWNS = 0x20000
MS_RDONLY = 1
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_FORCE = 1
MNT_DETACH = 2
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
AT_FDCWD = -100
_PR_SET_PDEATHSIG = 1
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
_SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
FALLOC_FL_ZERO_RANGE = 16

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: str | bytes | None = None) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name, for the calling thread and what it starts."""
    _check(_libc.unshare(flags))


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str = "") -> None:
    """Mount as mount(2) does."""
    encoded = kind.encode() if kind else None
    _check(
        _libc.mount(os.fsencode(source), os.fsencode(target), encoded, ctypes.c_ulong(flags), data.encode()),
        target,
    )


def umount2(target: str, flags: int = 0) -> None:
    """Unmount as umount2(2) does."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def renameat2(old: str | bytes, new: str | bytes, flags: int) -> None:
    """Rename as renameat2(2) does, both names relative to the working directory."""
    _check(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags), os.fsencode(old))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Allocate as fallocate(2) does; posix_fallocate cannot keep the size."""
    _check(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # equal on every architecture
_AT_EMPTY_PATH, _MOVE_MOUNT_F_EMPTY_PATH, _OPEN_TREE_CLONE = 0x1000, 4, 1
_MOUNT_ATTR_IDMAP = 0x100000


def cached_pages(fd: int) -> int:
    """Return how many pages of a file its own page cache holds, not what a mapping of it would show; ENOSYS before Linux 6.5."""
    whole, counts = struct.pack("=QQ", 0, 0), ctypes.create_string_buffer(40)
    _check(_libc.syscall(451, fd, whole, counts, 0))
    return int(struct.unpack_from("=Q", counts.raw)[0])


def bind_idmapped(source: str, target: str, user_namespace_fd: int) -> None:
    """Bind `source` at `target` with ids mapped as in a user namespace (mount_setattr(2))."""
    path = ctypes.c_char_p(os.fsencode(source))
    tree = _libc.syscall(_OPEN_TREE, AT_FDCWD, path, _OPEN_TREE_CLONE | os.O_CLOEXEC)
    _check(tree, source)
    try:
        attributes = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, user_namespace_fd)
        empty = ctypes.c_char_p(b"")
        _check(
            _libc.syscall(_MOUNT_SETATTR, tree, empty, _AT_EMPTY_PATH, attributes, len(attributes)), source
        )
        place = ctypes.c_char_p(os.fsencode(target))
        _check(_libc.syscall(_MOVE_MOUNT, tree, empty, AT_FDCWD, place, _MOVE_MOUNT_F_EMPTY_PATH), target)
    finally:
        os.close(tree)


class DirectoryStream:
    """A directory opened by opendir(3), which knows positions as Python's own functions do not."""

    def __init__(self, path: str) -> None:
        for name in ("opendir", "readdir"):
            getattr(_libc, name).restype = ctypes.c_void_p
        _libc.telldir.restype = ctypes.c_long
        self._stream = ctypes.c_void_p(_libc.opendir(os.fsencode(path)))
        if not self._stream:
            _check(-1, path)

    def next(self) -> str | None:
        """Return the next name, None at the end."""
        ctypes.set_errno(0)
        entry = _libc.readdir(self._stream)
        if entry is None:
            _check(-1 if ctypes.get_errno() else 0)
            return None
        return os.fsdecode(ctypes.string_at(entry + 19))  # behind d_ino, d_off, d_reclen and d_type

    def rest(self) -> list[str]:
        """Return the names up to the end."""
        return list(iter(self.next, None))

    def tell(self) -> int:
        """Return the position."""
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        """Go to a position that `tell` returned."""
        _libc.seekdir(self._stream, ctypes.c_long(position))

    def rewind(self) -> None:
        """Go to the beginning, to see what there is now."""
        _libc.rewinddir(self._stream)

    def close(self) -> None:
        """Close it."""
        _libc.closedir(self._stream)


_AT_STATX_FORCE_SYNC, _AT_SYMLINK_NOFOLLOW, _STATX_BASIC_STATS = 0x2000, 0x100, 0x7FF
_STATX_TIME = struct.Struct("=qI4x")


def true_times(path: str | bytes | os.PathLike[str]) -> tuple[int, int]:
    """Return (mtime, ctime) in nanoseconds as the filesystem has them now, whatever the kernel has cached (statx(2))."""
    buffer = ctypes.create_string_buffer(256)
    flags = _AT_STATX_FORCE_SYNC | _AT_SYMLINK_NOFOLLOW
    _check(_libc.statx(AT_FDCWD, os.fsencode(path), flags, _STATX_BASIC_STATS, buffer), os.fsencode(path))
    ctime, mtime = (_STATX_TIME.unpack_from(buffer.raw, offset) for offset in (96, 112))
    return mtime[0] * 10**9 + mtime[1], ctime[0] * 10**9 + ctime[1]


def raw_entries(fd: int, size: int) -> list[tuple[str, int]]:
    """Return the next (name, d_off) of a directory as one getdents64 with so small a buffer gives them; none at the end."""
    buffer = ctypes.create_string_buffer(size)
    length = _libc.syscall(_GETDENTS64, fd, buffer, size)
    _check(length)
    found, position = [], 0
    while position < length:
        _, offset, record, _ = struct.unpack_from("=QqHB", buffer.raw, position)
        name = buffer.raw[position + 19 : position + record].split(b"\0", 1)[0]
        found.append((os.fsdecode(name), offset))
        position += record
    return found


_GETDENTS64 = {"x86_64": 217}.get(os.uname().machine, 61)


def die_with_parent() -> None:
    """Let this process be killed when the thread that forked it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))


def call_number(name: str) -> int:
    """Return the number of a system call on this machine; below zero if it has none of that name."""
    return int(ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name(name.encode()))


def seccomp_listener(program: bytes) -> int:
    """Filter this thread's system calls by `program` (struct sock_filter[]); return who is asked, a descriptor."""
    code = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code)))
    flags = _SECCOMP_FILTER_FLAG_NEW_LISTENER | _SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    listener = _libc.syscall(call_number("seccomp"), _SECCOMP_SET_MODE_FILTER, flags, header)
    _check(listener)
    return int(listener)
