# SPDX-License-Identifier: Apache-2.0
"""System calls that Python's `os` lacks. The only module of `unionfs` that may use ctypes.

Each wrapper keeps the name of its call, sets close-on-exec, retries EINTR and raises `OSError(errno, text, path)`.
It knows nothing of branches or FUSE.
"""

import ctypes
import errno
import fcntl
import os
import struct
import sys
import threading
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:  # the package `collections` takes longer to import than this module
    from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
# Another object of the same function: its seventh argument must be known to be a long one.
_getxattrat = _libc["syscall"]
_getxattrat.restype = ctypes.c_long
_getxattrat.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)

_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_getdents64 = _libc.getdents64

# Numbers of the generic table, equal on every architecture; the older ones come from libc by name.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR, _OPENAT2, _GETXATTRAT, _LISTXATTRAT = 428, 429, 442, 437, 464, 465
_FSOPEN, _FSCONFIG, _FSMOUNT, _FSPICK = 430, 431, 432, 433

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
FSPICK_CLOEXEC, FSPICK_EMPTY_PATH = 1, 8
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_SET_FD = 0, 1, 5
MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSYMFOLLOW = 0x4, 0x200000
_FSCONFIG_CMD_CREATE, _FSCONFIG_CMD_RECONFIGURE = 6, 7
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

# To open a directory by one component that is no symbolic link.
PATH_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LIST_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS = 1, 2, 4, 8, 16
MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC, MS_NOSYMFOLLOW = 32, 64, 128, 256
MS_NOATIME, MS_NODIRATIME = 1024, 2048
MS_BIND, MS_MOVE, MS_REC, MS_SILENT = 4096, 8192, 16384, 32768
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_RELATIME, MS_STRICTATIME = 1 << 21, 1 << 24
MNT_FORCE, MNT_DETACH, MNT_EXPIRE, UMOUNT_NOFOLLOW = 1, 2, 4, 8

_FICLONE = 0x40049409

_IN_CLOEXEC, _IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
IN_MODIFY, IN_ATTRIB, IN_MOVED_FROM, IN_MOVED_TO = 0x2, 0x4, 0x40, 0x80
IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR, IN_EXCL_UNLINK = 0x4000, 0x8000, 0x01000000, 0x04000000

Path = str | bytes


def _check(result: int, path: Path | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def openat2(name: Path, flags: int, *, dir_fd: int, mode: int = 0, resolve: int | None = None) -> int:
    """Open `name` beneath `dir_fd`, following no symbolic or magic link, and return the descriptor.

    Raises ELOOP for a link in the path, EXDEV for a path that leaves `dir_fd`, ENOSYS before Linux 5.6.
    """
    if resolve is None:
        resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    while True:
        try:
            return _check(_syscall(_OPENAT2, dir_fd, ctypes.c_char_p(os.fsencode(name)), how, 24), name)
        except InterruptedError:
            continue
        except BlockingIOError:  # EAGAIN: a rename raced with the walk; the kernel asks for another try
            continue


def has_xattrs(dir_fd: int, name: bytes) -> bool:
    """Tell whether `name` in `dir_fd` has extended attributes that this process may see; a link is not followed.

    Raises ENOSYS before Linux 6.13, and EOPNOTSUPP where the filesystem has no such thing.
    """
    return _check(_syscall(_LISTXATTRAT, dir_fd, name, AT_SYMLINK_NOFOLLOW, None, 0), name) > 0


class _XattrRoom(threading.local):
    """A thread's place for an extended attribute's value, with the kernel's struct xattr_args for it, and for names."""

    def __init__(self) -> None:
        self.names = ctypes.create_string_buffer(1024)
        self.value = ctypes.create_string_buffer(64)
        self.arguments = struct.pack("=QII", ctypes.addressof(self.value), 64, 0)


_xattr_room = _XattrRoom()


def getxattrat(dir_fd: int, name: bytes, attribute: bytes) -> bytes | None:
    """Return a short extended attribute of `name` in `dir_fd`, which may be an O_PATH descriptor; a link is not followed.

    None where there is no such attribute. Raises ERANGE for more than 64 bytes, ENOSYS before Linux 6.13.
    """
    room = _xattr_room
    length = _getxattrat(_GETXATTRAT, dir_fd, name, AT_SYMLINK_NOFOLLOW, attribute, room.arguments, 16)
    if length < 0 and ctypes.get_errno() == errno.ENODATA:
        return None  # what is answered nearly always: no exception
    return room.value.raw[: _check(length, name)]


def listxattrat(dir_fd: int, name: bytes) -> bytes:
    """Return the names of the extended attributes of `name` in `dir_fd`, each with a NUL behind it; a link is not followed.

    Raises ERANGE for more than 1024 bytes, ENOSYS before Linux 6.13, EOPNOTSUPP where the filesystem has no such thing.
    """
    room = _xattr_room.names
    length = _check(_syscall(_LISTXATTRAT, dir_fd, name, AT_SYMLINK_NOFOLLOW, room, 1024), name)
    return room.raw[:length] if length else b""


def renameat2(old: bytes, new: bytes, *, src_dir_fd: int, dst_dir_fd: int, flags: int = 0) -> None:
    """Rename with `flags` (RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT)."""
    _check(_libc.renameat2(src_dir_fd, ctypes.c_char_p(old), dst_dir_fd, ctypes.c_char_p(new), flags), old)


def exchange(one: bytes, other: bytes, one_dir_fd: int, other_dir_fd: int) -> None:
    """Let two entries change places in one step; EINVAL where the filesystem cannot."""
    renameat2(one, other, src_dir_fd=one_dir_fd, dst_dir_fd=other_dir_fd, flags=RENAME_EXCHANGE)


def mount(
    source: Path | None, target: Path, fstype: str | None, flags: int = 0, data: Path | None = None
) -> None:
    """Mount as mount(2) does."""

    def encode(value: Path | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    arguments = (encode(source), encode(target), encode(fstype), ctypes.c_ulong(flags), encode(data))
    _check(_libc.mount(*arguments), target)


def umount2(target: Path, flags: int = 0) -> None:
    """Unmount `target`; MNT_DETACH makes it lazy."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def open_tree(path: Path, flags: int, *, dir_fd: int = AT_FDCWD) -> int:
    """Return an O_PATH descriptor of a mount; with OPEN_TREE_CLONE of a detached copy (without AT_RECURSIVE: no sub-mounts)."""
    name = ctypes.c_char_p(os.fsencode(path))
    return _check(_syscall(_OPEN_TREE, dir_fd, name, flags | OPEN_TREE_CLOEXEC), path)


def move_mount(source_fd: int, target: Path, *, dir_fd: int = AT_FDCWD) -> None:
    """Attach the mount behind `source_fd` at `target`."""
    name = ctypes.c_char_p(os.fsencode(target))
    _check(
        _syscall(_MOVE_MOUNT, source_fd, ctypes.c_char_p(b""), dir_fd, name, MOVE_MOUNT_F_EMPTY_PATH), target
    )


def fsopen(fstype: str) -> int:
    """Return the descriptor of a filesystem that is about to be configured and mounted."""
    return _check(_syscall(_FSOPEN, ctypes.c_char_p(fstype.encode()), _FSOPEN_CLOEXEC), fstype)


def fsconfig_set(context_fd: int, key: str, value: Path | int | None = None) -> None:
    """Set a parameter: a flag (None), a string, or a descriptor, which may be O_PATH."""
    if value is None:
        command, text, number = _FSCONFIG_SET_FLAG, None, 0
    elif isinstance(value, int):
        command, text, number = _FSCONFIG_SET_FD, None, value
    else:
        command, text, number = _FSCONFIG_SET_STRING, os.fsencode(value), 0
    _check(_syscall(_FSCONFIG, context_fd, command, ctypes.c_char_p(key.encode()), text, number), key)


def fsmount(context_fd: int, attributes: int = 0) -> int:
    """Create the filesystem that was configured and return an O_PATH descriptor of a detached mount of it (MOUNT_ATTR_*)."""
    _check(_syscall(_FSCONFIG, context_fd, _FSCONFIG_CMD_CREATE, None, None, 0))
    return _check(_syscall(_FSMOUNT, context_fd, _FSMOUNT_CLOEXEC, attributes))


def drop_unused_names(mount_fd: int) -> None:
    """Have the kernel forget the names and files of a whole filesystem that nobody uses, as any remount of it does."""
    context_fd = _check(_syscall(_FSPICK, mount_fd, ctypes.c_char_p(b""), FSPICK_CLOEXEC | FSPICK_EMPTY_PATH))
    try:
        _check(_syscall(_FSCONFIG, context_fd, _FSCONFIG_CMD_RECONFIGURE, None, None, 0))
    finally:
        os.close(context_fd)


def current_processor() -> int:
    """Return the number of the processor that the calling thread runs on."""
    return int(_libc.sched_getcpu())


def malloc_trim() -> None:
    """Give free memory back to the system, where the C library can."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Allocate, punch (FALLOC_FL_PUNCH_HOLE) or zero a range of a file."""
    _check(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


_SYNC_FILE_RANGE_WRITE_AND_WAIT = 7


def write_back(fd: int) -> None:
    """Write a file's data and wait until the device has it, maybe in its cache; raises the errors that fsync would."""
    _check(_sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE_AND_WAIT))


def sync_filesystem(fd: int) -> None:
    """Write back the filesystem that `fd` (which may be O_PATH) is on."""
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        _check(_libc.syncfs(opened))
    finally:
        os.close(opened)


def filesystem_magic(fd: int) -> int:
    """Return f_type of the filesystem behind `fd` (`os.statvfs` leaves it out)."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(fd, buffer))
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], "little") & 0xFFFFFFFF


EXT4_MAGIC = 0xEF53  # ext2 and ext3 too
TMPFS_MAGIC = 0x01021994


def is_in_memory(fd: int) -> bool:
    """Tell whether a file is on tmpfs: there nothing ever waits for a disk, or is on one."""
    return filesystem_magic(fd) == TMPFS_MAGIC


# Inode flags as chattr(1) knows them; statx(2) has the same bits.
FS_IMMUTABLE_FL, FS_APPEND_FL = 0x10, 0x20
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
_PROTECTING = FS_IMMUTABLE_FL | FS_APPEND_FL

# struct statx up to stx_btime: stx_mask first, stx_attributes at 8, what of it counts at 56, stx_btime (s, ns) at 80.
_STATX_SIZE, _STATX_BTIME = 256, 0x800
_BTIME = struct.Struct("=qI")
_U64 = struct.Struct("=Q")


class _StatxRoom(threading.local):
    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(_STATX_SIZE)


_statx_room = _StatxRoom()


def _statx(dir_fd: int, name: bytes, mask: int) -> ctypes.Array[ctypes.c_char]:
    """Call statx(2) for `name`, which is not followed, or with b"" for the descriptor itself."""
    buffer = _statx_room.buffer
    _check(_libc.statx(dir_fd, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, mask, buffer), name)
    return buffer


class Birth(NamedTuple):
    """What only statx(2) tells: (seconds, nanoseconds) of the creation, None if nobody recorded it; attributes and mask."""

    time: tuple[int, int] | None
    attributes: int
    attributes_mask: int


def birth(fd: int, name: bytes = b"") -> Birth:
    """Return what statx(2) tells of a file behind a descriptor, which may be O_PATH, or of a name there (no link is followed)."""
    buffer = _statx(fd, name, _STATX_BTIME)
    known = int.from_bytes(buffer.raw[:4], sys.byteorder) & _STATX_BTIME
    seconds, nanoseconds = _BTIME.unpack_from(buffer, 80)
    return Birth(
        (seconds, nanoseconds) if known else None,
        _U64.unpack_from(buffer, 8)[0],
        _U64.unpack_from(buffer, 56)[0],
    )


def protecting_flags(dir_fd: int, name: bytes = b"") -> int:
    """Return which of FS_IMMUTABLE_FL and FS_APPEND_FL a file has; a link is not followed."""
    return int(_U64.unpack_from(_statx(dir_fd, name, 0), 8)[0]) & _PROTECTING


def keeps_flags(fd: int) -> bool:
    """Tell whether a filesystem tells of such flags at all."""
    return bool(_U64.unpack_from(_statx(fd, b"", 0), 56)[0] & _PROTECTING)


def clone_file(target_fd: int, source_fd: int) -> None:
    """Share all of `source_fd`'s blocks with `target_fd` (FICLONE); EOPNOTSUPP, EXDEV or EINVAL where that is impossible."""
    fcntl.ioctl(target_fd, _FICLONE, source_fd)


class DirectoryReader:
    """Read raw directory entries of a descriptor with getdents64, in buffers of `size` bytes."""

    def __init__(self, size: int = 32768) -> None:
        self._buffer = ctypes.create_string_buffer(size)
        self._view = memoryview(self._buffer).cast("B")
        self._size = size

    def read_raw(self, fd: int) -> bytes:
        """Return the next entries as the kernel wrote them (`dirents`); nothing at the end."""
        count = _getdents64(fd, self._buffer, self._size)
        if count > 0:
            return self._view[:count].tobytes()
        if count < 0 and ctypes.get_errno() != errno.ENOENT:  # removed while open it holds nothing
            _check(count)
        return b""


def inotify_init() -> int:
    """Return a non-blocking inotify descriptor."""
    return _check(_libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK))


def inotify_add_watch(fd: int, path: Path, mask: int) -> int:
    """Watch `path` and return the watch number; ENOSPC when the user's limit of watches is reached."""
    return _check(
        _libc.inotify_add_watch(fd, ctypes.c_char_p(os.fsencode(path)), ctypes.c_uint32(mask)), path
    )


def inotify_rm_watch(fd: int, watch: int) -> None:
    """Drop a watch."""
    _check(_libc.inotify_rm_watch(fd, watch))


def inotify_events(data: bytes) -> "Iterator[tuple[int, int, bytes]]":
    """Yield (watch, mask, name) of what was read from an inotify descriptor."""
    position = 0
    while position + 16 <= len(data):
        watch, mask, _cookie, length = struct.unpack_from("=iIII", data, position)
        yield watch, mask, data[position + 16 : position + 16 + length].rstrip(b"\0")
        position += 16 + length


def is_unsupported(error: OSError) -> bool:
    """Tell whether `error` says that a filesystem or kernel lacks the operation (and not that it failed)."""
    return error.errno in (
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.EINVAL,
        errno.EXDEV,
        errno.ENOTTY,
        errno.EPERM,
    )
