# SPDX-License-Identifier: Apache-2.0
"""Immutable and append-only files and directories (chattr's +i and +a): what is obeyed, read, set and copied up.

A copy on a writable branch is protected by its branch: the kernel refuses what we would do to it. What nobody else refuses is
looked for here: changes of files that have yet to be copied up, and of names in directories whose visible copy is on a branch
that is not writable. A directory that is copied up with something below it cannot have the flags themselves, as then nothing
more could be copied into it; it has them in an extended attribute (docs/formats.md), as overlayfs does it.
Source of the rules: Linux, fs/namei.c (may_delete, may_open, vfs_link), fs/attr.c, fs/xattr.c.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.kernel import syscalls
from unionfs.kernel.syscalls import FS_APPEND_FL, FS_IMMUTABLE_FL
from unionfs.tree.nodes import NO_XATTRS, Node
from unionfs.tree.union import Union

IMMUTABLE, APPEND = FS_IMMUTABLE_FL, FS_APPEND_FL
PROTECTED = IMMUTABLE | APPEND
# Synchronous, no dump, no access times, synchronous directory: what is carried to a copy besides; the rest says how a
# filesystem keeps a file.
_CARRIED = 0x8 | 0x40 | 0x80 | 0x10000
_LETTERS = {IMMUTABLE: b"i", APPEND: b"a"}
_OUR_XATTR = ("trusted" if os.geteuid() == 0 else "user") + ".unionfs.protected"
_OVERLAY_XATTR = "trusted.overlay.protattr"
_FLAGS = struct.Struct("=I4x")  # declared as long, read and written as int


def refused() -> OSError:
    """Return what the kernel answers."""
    return OSError(errno.EPERM, os.strerror(errno.EPERM))


def of_directory(union: Union, node: Node) -> int:
    """Return which of PROTECTED hold for a directory beyond what its branch sees to itself."""
    dirs = union.dirs(node)
    branch, fd = dirs[0]
    if not branch.writable:
        return syscalls.protecting_flags(fd) if branch.keeps_flags else 0
    if len(dirs) == 1 and not _may_be_left(union, branch):
        return 0
    if node.protected < 0:
        node.protected = _recorded(branch, fd)
    return node.protected


def of_file(union: Union, node: Node) -> int:
    """Return which of PROTECTED hold for what is no directory, beyond what its branch sees to itself."""
    branch = node.branch
    if branch is None or stat.S_ISLNK(node.kind):
        return 0
    if branch.writable:
        return _left_on(union, node) if _may_be_left(union, branch) else 0
    if not branch.keeps_flags:
        return 0
    if node.parent is None:
        return syscalls.protecting_flags(union.held_fd(node))
    return syscalls.protecting_flags(*union.home(node))


def _may_be_left(union: Union, branch: OpenBranch) -> bool:
    """Tell whether a writable branch may have flags on record that a kernel's overlay left, which had it as its upper one."""
    return branch.overlay and branch.id not in union.unmarked


def _left_on(union: Union, node: Node) -> int:
    if node.parent is None or node.bare == NO_XATTRS or not stat.S_ISREG(node.kind):
        return 0
    fd, name = union.home(node)
    return _flags_in(whiteout.read_xattr(fd, _OVERLAY_XATTR, name) or b"")


def check_new_name(union: Union, parent: Node) -> None:
    """Refuse (EPERM) to make a name in an immutable directory."""
    if of_directory(union, parent) & IMMUTABLE:
        raise refused()


def check_lost_name(union: Union, parent: Node, node: Node) -> None:
    """Refuse (EPERM) to take a name from a directory or a file that is protected."""
    if of_directory(union, parent):
        raise refused()
    if of_directory(union, node) if node.is_directory else of_file(union, node):
        raise refused()


def appending(flags: int) -> int:
    """Return what `CopyUps.ensure` is to allow to a file opened with `flags`."""
    return APPEND if flags & os.O_APPEND else 0


def check_open(union: Union, node: Node, flags: int) -> None:
    """Refuse (EPERM) to open a file for writing, or for anything but appending, that has yet to be copied up."""
    held = of_file(union, node)
    if held & IMMUTABLE or (held & APPEND and (flags & os.O_TRUNC or not flags & os.O_APPEND)):
        raise refused()


def mark_copy(union: Union, node: Node, fd: int) -> int:
    """Mark the copy behind `fd` of a directory, not published yet, with what protects the directory; return that."""
    flags = of_directory(union, node)
    if flags:
        os.setxattr(whiteout.proc_path(fd), _xattr(union), _letters(flags))
    return flags


def carry(source_flags: int, fd: int) -> None:
    """Give a copy, not published yet, those flags of its origin that do not protect; what its filesystem lacks is left out."""
    wanted = source_flags & _CARRIED
    if wanted:
        with contextlib.suppress(OSError):
            _write(fd, read_flags(fd) | wanted)


def protect(flags: int, fd: int) -> None:
    """Give a copy the flags of its origin that protect it: after everything else, as they forbid even its publication."""
    if flags:
        _write(fd, read_flags(fd) | flags)


def unprotect(fd: int) -> None:
    """Take the flags that protect a directory of our own, which has them from its origin."""
    _write(fd, read_flags(fd) & ~PROTECTED)


def flags_of(fd: int) -> int:
    """Return the same, and 0 where the filesystem has no flags."""
    try:
        return read_flags(fd)
    except OSError:
        return 0


def shown(union: Union, node: Node, flags: int) -> int:
    """Return what a node shows, given the flags of its visible copy."""
    if node.removed:
        return flags
    return flags | (of_directory(union, node) if node.is_directory else of_file(union, node))


def change(union: Union, node: Node, fd: int, changed: int, wanted: int) -> None:
    """Set those flags of a node that `changed` names to what they are in `wanted`; `fd` is of its copy on a writable branch.

    Others stay: a copy on another kind of filesystem has others, and need not know all that the origin had.
    """
    now = read_flags(fd)
    new = (now & ~changed) | (wanted & changed)
    if not node.is_directory or node.removed:
        left = 0 if node.removed else of_file(union, node)
        if left:
            os.removexattr(whiteout.proc_path(fd), _OVERLAY_XATTR)
        _write(fd, new | left & ~changed)
        return
    if len(union.dirs(node)) == 1 and not of_directory(union, node):
        _write(fd, new)
        return
    if now & PROTECTED:  # set by somebody else; nothing could be recorded on it
        _write(fd, now & ~PROTECTED)
    held = (of_directory(union, node) | now) & PROTECTED
    held = (held & ~changed) | (wanted & changed & PROTECTED)
    path = whiteout.proc_path(fd)
    if held:
        os.setxattr(path, _xattr(union), _letters(held))
    else:
        for name in _names(union.dirs(node)[0][0]):
            with contextlib.suppress(OSError):
                os.removexattr(path, name)
    node.protected = held
    if new & ~PROTECTED != now & ~PROTECTED:
        _write(fd, new & ~PROTECTED)


def read_flags(fd: int) -> int:
    """Return the flags of an open file (not an O_PATH descriptor); ENOTTY where its filesystem has none."""
    argument = bytearray(_FLAGS.size)
    fcntl.ioctl(fd, syscalls.FS_IOC_GETFLAGS, argument)
    return int(_FLAGS.unpack(argument)[0])


def _write(fd: int, flags: int) -> None:
    fcntl.ioctl(fd, syscalls.FS_IOC_SETFLAGS, bytearray(_FLAGS.pack(flags)))


def _xattr(union: Union) -> str:
    privileged = os.geteuid() == 0
    return _OVERLAY_XATTR if union.options.whiteout == "overlay" and privileged else _OUR_XATTR


def _names(branch: OpenBranch) -> tuple[str, ...]:
    return (_OUR_XATTR, _OVERLAY_XATTR) if branch.overlay else (_OUR_XATTR,)


def _recorded(branch: OpenBranch, fd: int) -> int:
    return _flags_in(b"".join(whiteout.read_xattr(fd, name) or b"" for name in _names(branch)))


def _flags_in(letters: bytes) -> int:
    return sum(flag for flag, letter in _LETTERS.items() if letter in letters)


def _letters(flags: int) -> bytes:
    return b"".join(letter for flag, letter in _LETTERS.items() if flags & flag)
