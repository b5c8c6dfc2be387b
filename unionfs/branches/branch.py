# SPDX-License-Identifier: Apache-2.0
"""A branch: a directory that takes part in a union, its permission and attributes, and its open descriptor.

Owns the syntax `DIR=PERM+ATTR`, the defaults and the checks of one directory. It must not know the other branches'
content nor how they are stacked; relations between branches (overlap) are checked in `surgery`.
"""

import errno
import logging
import os
import stat
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from unionfs.kernel import syscalls
from unionfs.kernel.paths import absolute

log = logging.getLogger(__name__)

PERMISSIONS = ("rw", "ro", "rr")
ICEX = ("icexsec", "icexsys", "icextr", "icexusr", "icexoth")
# In the order in which AUFS prints them. `fhsm` and `unpin` are accepted and ignored.
ATTRIBUTES = ("coo_reg", "coo_all", "moo", "fhsm", "icex", *ICEX, "wh", "nolwh", "ovl")
_IGNORED = ("fhsm", "unpin")
_ONLY_FOR = {"wh": ("ro", "rr"), "nolwh": ("rw",), "moo": ("rw",)}
_COPY_ON_OPEN = ("coo_reg", "coo_all", "moo")

# Filesystems that cannot change: their default permission is rr.
_READ_ONLY_KINDS = {
    0x73717368: "squashfs",
    0x9660: "iso9660",
    0x28CD3D45: "cramfs",
    0x7275: "romfs",
    0xE0F5E1E2: "erofs",
}
# Filesystems all of whose directories have the device number of the root.
_ONE_DEVICE_KINDS = {0xEF53: "ext4", 0x58465342: "xfs", 0x01021994: "tmpfs"}
# Filesystems whose positions in a directory are counted, or hashes of names: they have room above them. Of some a position stays
# with its name whatever is made, removed or replaced; ext4 and xfs keep it also when another file is renamed over the name.
_STEADY_KINDS = {0xEF53: "ext4", 0x58465342: "xfs", **_READ_ONLY_KINDS}
_COUNTING_KINDS = {0x01021994: "tmpfs", 0x9123683E: "btrfs", 0x794C7630: "overlay", **_STEADY_KINDS}
_FUSE = 0x65735546
_REFUSED_KINDS = {
    0x9FA0: "procfs",
    0x62656572: "sysfs",
    0x62656570: "configfs",
    0x64626720: "debugfs",
    0x73636673: "securityfs",
    0x858458F6: "ramfs",
    0x61756673: "aufs",
    0xF15F: "ecryptfs",
}


@dataclass(frozen=True, slots=True)
class Branch:
    """A directory with the permission and attributes that the user gave it.

    `permission` is "rw", "ro", "rr" or None (decide by position and filesystem); `attributes` are AUFS' words without "+".
    """

    path: str
    permission: str | None = None
    attributes: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def parse(cls, text: str) -> "Branch":
        """Read `DIR[=PERM[+ATTR]...]`; an unknown permission becomes ro with a warning, as in AUFS."""
        path, separator, words = text.rpartition("=")
        if not separator:
            return cls(text)
        permission, attributes = parse_permission(words)
        return cls(path, permission, attributes)

    def __str__(self) -> str:
        """Return the canonical form `DIR=PERM+ATTR`, as in AUFS' br<N> files."""
        words = [self.permission or "ro"]
        icex = self.attributes.issuperset(ICEX)
        for word in ATTRIBUTES:
            if (word in ICEX and icex) or (word == "icex" and not icex):
                continue
            if word == "icex" or word in self.attributes:
                words.append(word)
        return f"{self.path}={'+'.join(words)}"


def parse_permission(text: str) -> tuple[str, frozenset[str]]:
    """Read `PERM[+ATTR]...` and return (permission, attributes) with what does not fit dropped and warned about.

    Source: AUFS' br_perm_val: parsing stops at the first unknown attribute; the last of coo_reg, coo_all, moo wins.
    """
    permission, *words = text.split("+")
    if permission not in PERMISSIONS:
        log.warning("unknown branch permission %r, taken as ro", permission)
        permission = "ro"
    chosen: set[str] = set()
    for word in words:
        if word in _IGNORED:
            log.info("branch attribute %s has no effect", word)
        elif word not in ATTRIBUTES:
            log.warning("unknown branch attribute %r, the rest of %r is ignored", word, text)
            break
        elif permission not in _ONLY_FOR.get(word, PERMISSIONS):
            log.warning("branch attribute %s does not fit %s, ignored", word, permission)
        else:
            if word in _COPY_ON_OPEN:
                chosen.difference_update(_COPY_ON_OPEN)
            chosen.update(ICEX if word == "icex" else (word,))
    return permission, frozenset(chosen)


@dataclass(frozen=True, slots=True, eq=False)
class OpenBranch:
    """A branch in use: its value, its root descriptor (O_PATH) and what its filesystem can do.

    `id` is AUFS' branch id, stable for the life of the branch in a mount. Equality is identity; `mod` replaces the object
    and keeps the descriptor.
    """

    branch: Branch
    id: int
    root: int
    device: int
    root_ino: int
    number_prefix: int
    in_memory: bool  # on tmpfs: nothing there waits for a disk, or is on one
    one_device: bool  # every directory has `device`: no subvolumes, and nothing mounted inside
    counts: bool  # offsets of its directories are none of those above all that filesystems give (`merge.FIRST`), or few are
    steady: bool  # and they stay with their names while others change the directory
    keeps_flags: bool  # files there may be immutable or append-only
    writable: bool
    whable: bool  # AUFS' whiteouts and opaque marks count here
    overlay: bool  # overlayfs' whiteouts and opaque marks count here
    links: bool  # whiteouts are hard links of one base file
    copy_on_open: str  # "", "coo_reg", "coo_all" or "moo"
    watch: bool  # somebody may change it behind our back

    @property
    def path(self) -> str:
        """Return the directory as the user gave it, made absolute."""
        return self.branch.path

    @property
    def permission(self) -> str:
        """Return "rw", "ro" or "rr"."""
        return self.branch.permission or "ro"

    @property
    def attributes(self) -> frozenset[str]:
        """Return the attributes in effect."""
        return self.branch.attributes

    @property
    def marks(self) -> bool:
        """Tell whether any whiteout or opaque mark counts on this branch."""
        return self.whable or self.overlay

    def __str__(self) -> str:
        return str(self.branch)

    def with_permission(self, permission: str, attributes: frozenset[str]) -> "OpenBranch":
        """Return this branch with another permission, on the same descriptor; EINVAL if it cannot be writable."""
        if permission == "rw":
            check_writable(self.root, self.path)
        return replace(
            self,
            branch=replace(self.branch, permission=permission, attributes=attributes),
            **_rules(permission, attributes),
        )

    def close(self) -> None:
        """Close the root descriptor."""
        os.close(self.root)


def _rules(
    permission: str, attributes: frozenset[str]
) -> dict[str, Any]:  # Any: keyword arguments of OpenBranch
    return {
        "writable": permission == "rw",
        "whable": permission == "rw" or "wh" in attributes,
        "overlay": "ovl" in attributes,
        "links": "nolwh" not in attributes,
        "copy_on_open": next((word for word in _COPY_ON_OPEN if word in attributes), ""),
        "watch": permission != "rr",
    }


def open_branch(branch: Branch, *, index: int, id: int, union_read_only: bool = False) -> OpenBranch:
    """Open the directory of `branch` and decide its permission (AUFS' defaults depend on `index`).

    As root the descriptor is a detached copy of the mount without its sub-mounts, so that what is mounted inside a branch
    is never reached (AUFS sees the covered directory), and a union over `/` cannot recurse into itself.
    Raises EINVAL (with the reason as text) for whatever AUFS refuses.
    """
    path = absolute(branch.path)
    root, alone = _open_root(path)
    try:
        _check_readable(root, branch.path)
        magic = syscalls.filesystem_magic(root)
        if magic in _REFUSED_KINDS:
            raise OSError(errno.EINVAL, f"{_REFUSED_KINDS[magic]} cannot be a branch", branch.path)
        permission = branch.permission or _default_permission(magic, index, union_read_only)
        if permission == "rw":
            check_writable(root, branch.path)
        status = os.fstat(root)
        return OpenBranch(
            branch=Branch(path, permission, branch.attributes),
            id=id,
            root=root,
            device=status.st_dev,
            root_ino=status.st_ino,
            number_prefix=_number_prefix(root, status.st_dev),
            in_memory=syscalls.is_in_memory(root),
            keeps_flags=syscalls.keeps_flags(root),
            one_device=alone and magic in _ONE_DEVICE_KINDS,
            counts=alone and magic in _COUNTING_KINDS,
            steady=alone and magic in _STEADY_KINDS,
            **_rules(permission, branch.attributes),
        )
    except BaseException:
        os.close(root)
        raise


def _check_readable(root: int, path: str) -> None:
    """Raise EACCES, which says whose permission is missing, for a directory that this process can only see from outside."""
    try:
        os.close(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root))
    except PermissionError as error:
        status = os.fstat(root)
        mode = stat.S_IMODE(status.st_mode)
        whose = f"its owner is user {status.st_uid}, its mode {mode:04o}"
        reason = f"user {os.geteuid()} may not read it: {whose}"
        raise OSError(error.errno, reason, path) from None


def _open_root(path: str) -> tuple[int, bool]:
    """Open as a detached clone where allowed (CAP_SYS_ADMIN, Linux 5.2), else plainly; what fails is EINVAL as in AUFS.

    Tell also whether it is the clone, which shows nothing that is mounted inside.
    """
    try:
        # The path is followed once: what is cloned is what was looked at.
        plain = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not stat.S_ISDIR(os.fstat(plain).st_mode):
            os.close(plain)
            raise OSError(errno.EINVAL, "not a directory", path)
        try:
            clone = syscalls.open_tree("", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH, dir_fd=plain)
        except OSError:
            return plain, False
        os.close(plain)
        return clone, True
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise
        raise OSError(errno.EINVAL, error.strerror, path) from None


def _default_permission(magic: int, index: int, union_read_only: bool) -> str:
    if magic in _READ_ONLY_KINDS:
        return "rr"
    return "rw" if index == 0 and not union_read_only else "ro"


def check_writable(root: int, path: str) -> None:
    """Raise EINVAL unless the filesystem behind `root` can be a writable branch."""
    status = os.statvfs(root)
    if _is_on_union(root):
        reason = "it lies on a union, which cannot be a writable branch: take one elsewhere, or this one as a lower branch"
        raise OSError(errno.EINVAL, reason, path)
    if status.f_flag & os.ST_RDONLY:
        raise OSError(errno.EINVAL, "the filesystem is read-only, rw is impossible", path)
    if status.f_namemax < 255:
        raise OSError(
            errno.EINVAL, f"the filesystem allows names of {status.f_namemax} bytes, rw needs 255", path
        )


def _is_on_union(root: int) -> bool:
    """Tell whether a directory is one of a union's: it keeps names that begin with `.wh.` to itself (EPERM)."""
    if syscalls.filesystem_magic(root) != _FUSE:
        return False
    try:
        os.stat(b".wh..wh.orph", dir_fd=root, follow_symlinks=False)
    except OSError as error:
        return error.errno == errno.EPERM
    return False


def _number_prefix(root: int, device: int) -> int:
    """Return 15 bits that name the filesystem, stable over remount and (where f_fsid is) over reboot; never 0."""
    fsid = os.statvfs(root).f_fsid or device
    return (zlib.crc32(fsid.to_bytes(8, "little", signed=False)) % 0x7FFE) + 1
