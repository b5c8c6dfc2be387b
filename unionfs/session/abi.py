# SPDX-License-Identifier: Apache-2.0
"""The FUSE protocol (7.31 to 7.45) as precompiled structs and numbers, and nothing else.

Names follow the kernel's `include/uapi/linux/fuse.h`. All fields are in host byte order and naturally aligned.
"""

from enum import IntEnum
from struct import Struct

MAJOR, MINOR = 7, 41


class Opcode(IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


# Headers: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding / len, error, unique.
IN_HEADER = Struct("=IIQQIIIHH")
OUT_HEADER = Struct("=IiQ")

# attr: ino, size, blocks, atime, mtime, ctime, three nsec, mode, nlink, uid, gid, rdev, blksize, flags.
_ATTR = "QQQqqqIIIIIIIIII"
# entry_out: nodeid, generation, entry_valid, attr_valid, their nsec, attr.
ENTRY_OUT = Struct("=QQQQII" + _ATTR)
ATTR_OUT = Struct("=QII" + _ATTR)
OPEN_OUT = Struct("=QIi")  # fh, open_flags, backing_id
WRITE_OUT = Struct("=II")
GETXATTR_OUT = Struct("=II")
LSEEK_OUT = Struct("=Q")
STATFS_OUT = Struct("=QQQQQIIII24x")
IOCTL_OUT = Struct("=iIII")
# init_out: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
# map_alignment, flags2, max_stack_depth, request_timeout.
INIT_OUT = Struct("=IIIIHHIIHHIIH22x")

INIT_IN = Struct("=IIIII")  # major, minor, max_readahead, flags, flags2
FORGET_IN = Struct("=Q")
BATCH_FORGET_IN = Struct("=II")
FORGET_ONE = Struct("=QQ")
GETATTR_IN = Struct("=IIQ")
# valid, fh, size, lock_owner, atime, mtime, ctime, three nsec, mode, uid, gid.
SETATTR_VALID = Struct("=I")  # how a setattr_in begins
SETATTR_IN = Struct("=I4xQQQqqqIIII4xII4x")
MKNOD_IN = Struct("=III4x")  # mode, rdev, umask
MKDIR_IN = Struct("=II")  # mode, umask
RENAME_IN = Struct("=Q")
RENAME2_IN = Struct("=QI4x")
LINK_IN = Struct("=Q")
OPEN_IN = Struct("=II")  # flags, open_flags
CREATE_IN = Struct("=IIII")  # flags, mode, umask, open_flags
READ_IN = Struct("=QQIIQII")  # fh, offset, size, read_flags, lock_owner, flags
WRITE_IN = Struct("=QQIIQII")  # fh, offset, size, write_flags, lock_owner, flags
RELEASE_IN = Struct("=QIIQ")
FSYNC_IN = Struct("=QI4x")
SETXATTR_IN = Struct("=IIII")  # size, flags, setxattr_flags (with SETXATTR_EXT)
GETXATTR_IN = Struct("=II")
FALLOCATE_IN = Struct("=QQQI4x")
LSEEK_IN = Struct("=QqI4x")  # fh, offset (may be negative: ENXIO), whence
COPY_FILE_RANGE_IN = Struct("=QQQQQQQ")
COPY_FILE_RANGE_OUT = Struct("=Q")  # of COPY_FILE_RANGE_64; the older one is answered as a write
IOCTL_IN = Struct("=QIIQII")  # fh, flags, cmd, arg, in_size, out_size
INTERRUPT_IN = Struct("=Q")  # the request's unique number
# attr_valid, its nsec, flags, then statx: mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks,
# attributes_mask, (seconds, nanoseconds) of atime, btime, ctime and mtime, the device numbers.
STATX_OUT = Struct("=QII16x" + "IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII112x")
BACKING_MAP = Struct("=iI8x")  # fd, flags
# A notification: its header (length, code, 0), then nodeid, offset, size, padding; data follows.
STORE_OUT = Struct("=IiQQQII")
NOTIFY_STORE = 4
BACKING_ID = Struct("=i")  # 32 bits wide here and in OPEN_OUT

# INIT flags; those above bit 31 live in flags2.
ASYNC_READ = 1 << 0
ATOMIC_O_TRUNC = 1 << 3
BIG_WRITES = 1 << 5
DONT_MASK = 1 << 6
AUTO_INVAL_DATA = 1 << 12
DO_READDIRPLUS = 1 << 13
READDIRPLUS_AUTO = 1 << 14
ASYNC_DIO = 1 << 15
WRITEBACK_CACHE = 1 << 16
PARALLEL_DIROPS = 1 << 18
POSIX_ACL = 1 << 20
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
NO_OPENDIR_SUPPORT = 1 << 24
HANDLE_KILLPRIV_V2 = 1 << 28
SETXATTR_EXT = 1 << 29
INIT_EXT = 1 << 30
CREATE_SUPP_GROUP = 1 << 2  # flags2, from here on
HAS_EXPIRE_ONLY = 1 << 3
DIRECT_IO_ALLOW_MMAP = 1 << 4
PASSTHROUGH = 1 << 5
NO_EXPORT_SUPPORT = 1 << 6
HAS_RESEND = 1 << 7
ALLOW_IDMAP = 1 << 8

FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3
FOPEN_NOFLUSH = 1 << 5
FOPEN_PASSTHROUGH = 1 << 7

# statx masks: what GETATTR tells, and the birth time.
STATX_BASIC_STATS, STATX_BTIME = 0x7FF, 0x800

# ioctls on the device; the id is what BACKING_OPEN returns.
BACKING_OPEN = 0x4010E501
BACKING_CLOSE = 0x4004E502

GETATTR_FH = 1
WRITE_CACHE = 1 << 0  # pages that were changed through a mapping, or with the writeback cache
WRITE_LOCKOWNER = READ_LOCKOWNER = 1 << 1  # said by what goes past the page cache, whoever owns locks
WRITE_KILL_SUIDGID = 1 << 2
OPEN_KILL_SUIDGID = 1
FSYNC_DATASYNC = 1

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE = 1, 2, 4, 8
FATTR_ATIME, FATTR_MTIME, FATTR_FH = 16, 32, 64
FATTR_ATIME_NOW, FATTR_MTIME_NOW = 128, 256
FATTR_CTIME = 1 << 10
FATTR_KILL_SUIDGID = 1 << 11

INVALID_ID = 0xFFFFFFFF  # uid and gid of requests that make nothing, with ALLOW_IDMAP
