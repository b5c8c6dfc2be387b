# SPDX-License-Identifier: Apache-2.0
"""Whiteouts and opaque marks: detect, make and remove them on one branch, in AUFS' and in overlayfs' form.

Knows names and formats (docs/formats.md); knows nothing of stacking. Directories are given as descriptors.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Sequence

from unionfs.branches.branch import OpenBranch
from unionfs.kernel import syscalls

PREFIX = b".wh."
META_PREFIX = b".wh..wh."
BASE = b".wh..wh.aufs"
PLINK_DIR = b".wh..wh.plnk"
ORPHAN_DIR = b".wh..wh.orph"
OPAQUE = b".wh..wh..opq"
BOOKKEEPING = (BASE, PLINK_DIR, ORPHAN_DIR)

# AUFS reserves room for two prefixes, a dot and four hex digits: 255 - 2*4 - 1 - 4.
MAX_NAME = 242
# What AUFS' form can hide; in overlayfs' form names may be longer.
_LONGEST_HIDDEN = 255 - len(PREFIX)

_OVERLAY_SPACES = ("trusted.overlay.", "user.overlay.")
_OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque")
# Private bookkeeping: never shown in the union, never copied between branches; overlayfs' own only where its form is in use.
_PRIVATE_XATTRS = ("trusted.unionfs.", "user.unionfs.")
_ESCAPED_SPACES = ("trusted.overlay.overlay.", "user.overlay.overlay.")
_OVERLAY_XATTRS = (*_OVERLAY_SPACES, "user.fuseoverlayfs.")

Layers = Sequence[tuple[OpenBranch, int]]


def proc_path(fd: int, name: bytes = b"") -> bytes:
    """Return a path that leads to `name` in the directory `fd` (or to `fd` itself) for calls without an *at form.

    The magic link is resolved by the kernel from the descriptor; use it with no-follow calls only when `name` is given.
    """
    return b"/proc/self/fd/%d/%b" % (fd, name) if name else b"/proc/self/fd/%d" % fd


def exists(dirfd: int, name: bytes) -> os.stat_result | None:
    """Return the no-follow stat of `name`, or None where there is no such name."""
    try:
        return os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def reserved(dirfd: int, name: bytes) -> os.stat_result | None:
    """Return the same of a name that begins with `.wh.`, None also where the branch is itself a union.

    AUFS and this union answer EPERM for such names, and show none of the whiteouts that they obey.
    """
    try:
        return exists(dirfd, name)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        return None


def has_mark(dirfd: int, name: bytes) -> bool:
    """Tell whether AUFS' whiteout of `name` is in the directory; EIO if something else than a regular file has its name."""
    try:
        status = reserved(dirfd, PREFIX + name)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EIO, "a whiteout that is no regular file", os.fsdecode(PREFIX + name))
    return status is not None


def is_overlay_whiteout(dirfd: int, name: bytes, status: os.stat_result) -> bool:
    """Tell whether `name` is a whiteout in overlayfs' form: a 0:0 character device, or an empty file with the xattr."""
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        return any(read_xattr(dirfd, space + "whiteout", name) is not None for space in _OVERLAY_SPACES)
    return False


def is_opaque(branch: OpenBranch, fd: int) -> bool:
    """Tell whether the directory `fd` of `branch` hides the lower ones of its name."""
    if branch.whable and reserved(fd, OPAQUE) is not None:
        return True
    return branch.overlay and any(read_xattr(fd, name) == b"y" for name in _OPAQUE_XATTRS)


def overlay_marks(dirfd: int, name: bytes) -> tuple[str, ...]:
    """Return the extended attributes by which overlayfs marks the entry `name` in `dirfd`; mostly there are none."""
    try:
        names = syscalls.listxattrat(dirfd, name)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ERANGE):
            return ()
        return marks_among(xattr_names(proc_path(dirfd, name)))
    return marks_among(names.decode("utf-8", "surrogateescape").split("\0")) if b"overlay" in names else ()


def marks_among(names: Iterable[str]) -> tuple[str, ...]:
    """Return those names that belong to overlayfs."""
    return tuple(name for name in names if name.startswith(_OVERLAY_XATTRS))


def xattr_names(place: int | bytes) -> list[str]:
    """Return the names of the extended attributes of an open file (not an O_PATH one), or at a path that is not followed."""
    try:
        return os.listxattr(place, follow_symlinks=isinstance(place, int))
    except OSError:
        return []


def is_opaque_marked(marks: tuple[str, ...], dirfd: int, name: bytes) -> bool:
    """Tell whether a directory `name` in `dirfd` that has `marks` is opaque; `x` says that there may be whiteouts in it."""
    return any(mark in _OPAQUE_XATTRS and read_xattr(dirfd, mark, name) == b"y" for mark in marks)


def read_xattr(dirfd: int, attribute: str, name: bytes = b"") -> bytes | None:
    """Return an extended attribute of `name` (or of `dirfd`), None where it is absent or not supported."""
    try:
        return syscalls.getxattrat(dirfd, name or b".", attribute.encode())
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ERANGE):
            return None
    try:
        return os.getxattr(proc_path(dirfd, name), attribute, follow_symlinks=not name)
    except OSError:
        return None


def has_xattr(fd: int, attribute: str) -> bool:
    """Tell whether an open file (not an O_PATH descriptor) has an extended attribute."""
    try:
        return attribute in os.listxattr(fd)  # that there is none is no exception, as it would be of getxattr
    except OSError:
        return False


def is_private_xattr(name: str, *, overlay: bool) -> bool:
    """Tell whether an attribute of a branch's file is union bookkeeping; `overlay`: overlayfs' marks are in use.

    Escaped marks are not: they are those of an overlay inside the union.
    """
    if name.startswith(_PRIVATE_XATTRS):
        return True
    return overlay and name.startswith(_OVERLAY_XATTRS) and not name.startswith(_ESCAPED_SPACES)


def escaped_xattr(name: str) -> str:
    """Return under which name a branch that has overlayfs' marks keeps an attribute of the union (overlayfs' own rule)."""
    for space in _OVERLAY_SPACES:
        if name.startswith(space):
            return f"{space}overlay.{name.removeprefix(space)}"
    return name


def unescaped_xattr(name: str) -> str:
    """Return the union's name of an attribute that is not private."""
    for space, escaped in zip(_OVERLAY_SPACES, _ESCAPED_SPACES, strict=True):
        if name.startswith(escaped):
            return space + name.removeprefix(escaped)
    return name


def make(branch: OpenBranch, dirfd: int, name: bytes, form: str) -> None:
    """Make the whiteout of `name`, which is not present as an entry in the directory when `form` is "overlay"."""
    if form == "overlay":
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=dirfd)
    else:
        _make_file(branch, dirfd, PREFIX + name)


def _make_file(branch: OpenBranch, dirfd: int, name: bytes) -> None:
    """Make an empty 0444 file, where possible as a link of the base (saves inodes); a name that is there already is fine."""
    if branch.links:
        try:
            os.link(BASE, name, src_dir_fd=branch.root, dst_dir_fd=dirfd, follow_symlinks=False)
            return
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.ENOENT, errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV):
                raise
            if error.errno == errno.EMLINK:
                _renew_base(branch)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444, dir_fd=dirfd))


def _renew_base(branch: OpenBranch) -> None:
    """Replace the base after EMLINK: whiteouts made from here on link to the new one."""
    with contextlib.suppress(OSError):
        os.unlink(BASE, dir_fd=branch.root)
        make_base(branch)


def remove(branch: OpenBranch, dirfd: int, name: bytes, form: str) -> bool:
    """Remove the whiteout of `name` if there is one in the directory; tell whether there was."""
    if branch.whable and len(name) <= _LONGEST_HIDDEN:
        try:
            os.unlink(PREFIX + name, dir_fd=dirfd)
            return True
        except FileNotFoundError:
            pass
    if branch.overlay and form == "overlay":
        status = exists(dirfd, name)
        if status is not None and is_overlay_whiteout(dirfd, name, status):
            os.unlink(name, dir_fd=dirfd)
            return True
    return False


def is_whited_out(branch: OpenBranch, dirfd: int, name: bytes) -> bool:
    """Tell whether `branch` hides `name` of the branches below it; EIO as of `has_mark`."""
    if branch.whable and has_mark(dirfd, name):
        return True
    if branch.overlay:
        status = exists(dirfd, name)
        return status is not None and is_overlay_whiteout(dirfd, name, status)
    return False


def make_opaque(branch: OpenBranch, fd: int, form: str) -> None:
    """Mark the directory `fd` opaque."""
    if form != "overlay":
        _make_file(branch, fd, OPAQUE)
        return
    trusted, anybodys, _ = _OPAQUE_XATTRS
    try:
        os.setxattr(proc_path(fd), trusted, b"y")
    except OSError:
        os.setxattr(proc_path(fd), anybodys, b"y")


def make_base(branch: OpenBranch) -> None:
    """Create the whiteout base if the branch lacks it."""
    if branch.links and exists(branch.root, BASE) is None:
        with contextlib.suppress(FileExistsError):
            os.close(
                os.open(
                    BASE, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444, dir_fd=branch.root
                )
            )


def make_bookkeeping(branch: OpenBranch) -> None:
    """Create AUFS' three entries in the root of a writable branch; OSError with the branch's path."""
    try:
        make_base(branch)
        for directory in (PLINK_DIR, ORPHAN_DIR):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700, dir_fd=branch.root)
    except OSError as error:
        raise OSError(error.errno, error.strerror, branch.path) from None


def remove_bookkeeping(branch: OpenBranch) -> list[OSError]:
    """Remove the three entries from the root of a branch that becomes read-only; return what could not be removed."""
    failures = []
    for name in BOOKKEEPING:
        try:
            if name == BASE:
                os.unlink(name, dir_fd=branch.root)
            else:
                os.rmdir(name, dir_fd=branch.root)
        except FileNotFoundError:
            pass
        except OSError as error:
            failures.append(error)
    return failures
