# SPDX-License-Identifier: Apache-2.0
"""One mount of the config: a filesystem made for the container, or a change of what is already mounted.

A mount is made detached and then attached to the descriptor of its target, so nothing can redirect it in between.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.oci.rootfs import resolve, syscalls
from runtime.oci.rootfs.mountflags import Options
from runtime.oci.rootfs.syscalls import ATTR_ATIME, ATTR_RDONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Where a user namespace does not own what a filesystem shows, the host's is bound. proc: only without a pid namespace.
_HOST_PLACES = {"sysfs": "/sys", "mqueue": "/dev/mqueue", "proc": "/proc"}

# Files of procfs that may be covered by a mount of the config: those that tell of resources, and two settings.
_PROC_FILES = frozenset(
    "cpuinfo diskstats loadavg meminfo slabinfo stat swaps uptime sys/kernel/ns_last_pid sys/crypto/fips_enabled".split()
)

_LONGEST_PARAMETER = 255


class Mount:
    """A mount of the config; `attach` makes it below the descriptor of the root. `where` is the path that people know."""

    __slots__ = ("kind", "options", "sealed", "source", "where")

    def __init__(self, where: str, kind: str, source: str, options: Options) -> None:
        self.where = where
        self.kind = kind
        self.source = source
        self.options = options
        self.sealed = -1  # a mount that becomes read-only only when everything below it is made

    def title(self) -> str:
        """Return what it is, for people."""
        return f"mount {self.kind or 'options'} on {self.where}"

    def attach(self, root: int) -> None:
        """Make the mount. Raises `OSError`."""
        raise NotImplementedError

    def seal(self) -> None:
        """Make it read-only at last, if it is to be."""
        if self.sealed >= 0:
            syscalls.mount_setattr(self.sealed, add=ATTR_RDONLY)
            os.close(self.sealed)
            self.sealed = -1

    def propagate(self, tree: int) -> None:
        """Set the propagation of an attached mount."""
        for kind, recursive in self.options.propagation:
            syscalls.mount_setattr(tree, propagation=kind, recursive=recursive)


class Filesystem(Mount):
    """A new filesystem: tmpfs, proc, sysfs, devpts, mqueue, or any other that the kernel has."""

    __slots__ = ("copy_tree", "host_place")

    def __init__(self, where: str, kind: str, source: str, options: Options, *, own_processes: bool) -> None:
        super().__init__(where, kind, source, options)
        self.host_place = "" if kind == "proc" and own_processes else _HOST_PLACES.get(kind, "")
        self.copy_tree: Callable[[int, int], None] | None = None
        if options.copy_up and kind == "tmpfs":
            from runtime.oci.rootfs.copyup import copy_tree

            self.copy_tree = copy_tree

    def attach(self, root: int) -> None:
        """Make the mount; the target is made where it is missing."""
        target, existed = self._open_target(root)
        try:
            tree = self._make(target, existed)
            try:
                self._change_below(tree)
                if self.copy_tree and existed:
                    self.copy_tree(target, tree)
                syscalls.move_mount(tree, target)
                self.propagate(tree)
                if self._is_sealed_late():
                    self.sealed = os.dup(tree)
            finally:
                os.close(tree)
        finally:
            os.close(target)

    def _open_target(self, root: int) -> tuple[int, bool]:
        # The kernel's own filesystems are trusted by path later: no link may lead elsewhere (CVE-2019-19921).
        links = self.kind not in ("proc", "sysfs") and not self.options.target_nofollow
        found = resolve.find(root, self.where, links=links)
        target = resolve.make_directory(root, self.where, links=links) if found is None else found
        if self.kind in ("proc", "sysfs") and not stat.S_ISDIR(os.fstat(target).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.where)
        refuse_proc_cover(target, self.where, self.kind)
        return target, found is not None

    def _is_sealed_late(self) -> bool:
        """Tell whether mounts or nodes may still have to be made in this read-only one."""
        return bool(self.options.add & ATTR_RDONLY) and self.kind == "tmpfs"

    def _make(self, target: int, existed: bool) -> int:
        words = list(self.options.data)
        if self.kind == "tmpfs" and existed and not any(word.startswith("mode=") for word in words):
            words.append(f"mode={stat.S_IMODE(os.fstat(target).st_mode):o}")
        flags, attributes = self.options.superblock, self.options.add
        if self._is_sealed_late():
            flags = [flag for flag in flags if flag != "ro"]
            attributes &= ~ATTR_RDONLY
        try:
            if self.options.iversion or not _fits(self.kind, words):
                return _mount_old_way(self, target, words, attributes)
            return new_filesystem(self.kind, self.source, [*flags, *words], attributes)
        except PermissionError:
            if not self.host_place:
                raise
            tree = syscalls.open_tree(self.host_place, recursive=True)
            change(tree, attributes, 0, recursive=False)
            return tree

    def _change_below(self, tree: int) -> None:
        options = self.options
        if options.add_all or options.drop_all:
            change(tree, options.add_all, options.drop_all, recursive=True)


class Change(Mount):
    """Options for what is mounted already: `remount`, or nothing but attributes and propagation."""

    __slots__ = ()

    def attach(self, root: int) -> None:
        """Change the mount that is there."""
        options = self.options
        target = resolve.find(root, self.where)
        if target is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), self.where)
        try:
            if options.remount and not options.bind:
                _reconfigure(target, [*options.superblock, *options.data])
            if options.add or options.drop:
                change(target, options.add, options.drop, recursive=False)
            if options.add_all or options.drop_all:
                change(target, options.add_all, options.drop_all, recursive=True)
            self.propagate(target)
        finally:
            os.close(target)


def refuse_proc_cover(target: int, where: str, kind: str, source: int = -1) -> None:
    """Refuse a mount that would let the container fake procfs (CVE-2019-16884): EPERM.

    `/proc` itself takes procfs only; in it, only some files may be covered. `source` is the tree that would be bound there.
    """
    path = os.path.normpath("/" + where.lstrip("/"))
    if path == "/proc":
        procfs = kind == "proc" or (source >= 0 and syscalls.filesystem_magic(source) == syscalls.PROC_MAGIC)
        if not procfs:
            raise OSError(errno.EPERM, "only proc may be mounted there", where)
        return
    may_cover = path.startswith("/proc/") and path[6:] in _PROC_FILES
    if not may_cover and syscalls.filesystem_magic(target) == syscalls.PROC_MAGIC:
        raise OSError(errno.EPERM, "it is inside of proc, which must not be covered", where)


def new_filesystem(kind: str, source: str, words: list[str], attributes: int) -> int:
    """Return a detached mount of a new filesystem; `words` are `key=value` or flags. What the kernel says goes into the error."""
    context = syscalls.fsopen(kind)
    try:
        syscalls.fsconfig_set(context, "source", source or kind)
        for word in words:
            key, equals, value = word.partition("=")
            syscalls.fsconfig_set(context, key, value if equals else None)
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, attributes)
    except OSError as error:
        raise OSError(error.errno, _explain(context, error), error.filename) from None
    finally:
        os.close(context)


def _reconfigure(target: int, words: list[str]) -> None:
    context = syscalls.fspick("", dir_fd=target)
    try:
        for word in words:
            key, equals, value = word.partition("=")
            syscalls.fsconfig_set(context, key, value if equals else None)
        syscalls.fsconfig_reconfigure(context)
    except OSError as error:
        raise OSError(error.errno, _explain(context, error), error.filename) from None
    finally:
        os.close(context)


def _explain(context: int, error: OSError) -> str:
    """Return the error's text with what the kernel logged in the context, a line a message ("e tmpfs: Unknown parameter")."""
    lines = []
    try:
        while True:
            lines.append(os.read(context, 512).decode("utf-8", "replace").strip()[2:])
    except OSError:
        pass  # ENODATA: that was all
    text = os.strerror(error.errno or 0)
    return f"{text} ({'; '.join(lines)})" if lines else text


def _fits(kind: str, words: list[str]) -> bool:
    """Tell whether a filesystem takes these parameters one by one: not when it parses quotes or long lists itself."""
    if kind == "overlay" or "." in kind:
        return False
    return all(len(word) <= _LONGEST_PARAMETER and not ("\\" in word or '"' in word) for word in words)


# (attribute, flag of mount(2))
_OLD_FLAGS = (
    (0x1, 1),
    (0x2, 2),
    (0x4, 4),
    (0x8, 8),
    (0x10, 1024),
    (0x20, 1 << 24),
    (0x80, 2048),
    (0x200000, 256),
)
_OLD_SUPERBLOCK = {"sync": 16, "dirsync": 128, "lazytime": 1 << 25, "mand": 64, "ro": 1}


def _mount_old_way(mount: Mount, target: int, words: list[str], attributes: int) -> int:
    """Mount by mount(2), which has no limit on the parameters, and take the mount off again as a detached one."""
    flags = syscalls.MS_I_VERSION if mount.options.iversion else 0
    flags |= sum(old for new, old in _OLD_FLAGS if attributes & new)
    for word in mount.options.superblock:
        flags |= _OLD_SUPERBLOCK[word]
    path = descriptor_path(target)
    syscalls.mount(mount.source or mount.kind, path, mount.kind, flags, ",".join(words) or None)
    tree = syscalls.open_tree(path)
    syscalls.umount2(path, syscalls.MNT_DETACH)
    return tree


def descriptor_path(fd: int) -> str:
    """Return a path that names exactly what `fd` refers to; EINVAL if /proc is not the real one."""
    proc = os.open("/proc", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if syscalls.filesystem_magic(proc) != syscalls.PROC_MAGIC or os.fstat(proc).st_ino != 1:
            raise OSError(errno.EINVAL, "is not procfs", "/proc")
    finally:
        os.close(proc)
    return f"/proc/self/fd/{fd}"


def change(tree: int, add: int, drop: int, *, recursive: bool) -> None:
    """Add and drop attributes. What a user namespace has locked stays: a flag that may not be dropped is kept."""
    kept = drop & ATTR_ATIME if add & ATTR_ATIME else 0
    attempts = [(add, drop), (add, kept), (add & ~ATTR_ATIME, 0)]
    for index, (more, less) in enumerate(attempts):
        if not more and not less:
            return
        try:
            syscalls.mount_setattr(tree, add=more, drop=less, recursive=recursive)
            return
        except PermissionError:
            if index == len(attempts) - 1:
                raise
