# SPDX-License-Identifier: Apache-2.0
"""One mount of the config: a filesystem made for the container, or a change of what is already mounted.

A mount is made detached and then attached to the descriptor of its target, so nothing can redirect it in between.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.oci.rootfs import filesystems, resolve, syscalls
from runtime.oci.rootfs.mountflags import Options
from runtime.oci.rootfs.syscalls import ATTR_RDONLY
from runtime.oci.syscalls import filesystem_magic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Where a user namespace does not own what a filesystem shows, the host's is bound. proc: only without a pid namespace.
_HOST_PLACES = {"sysfs": "/sys", "mqueue": "/dev/mqueue", "proc": "/proc"}

# Files of procfs that may be covered by a mount of the config: those that tell of resources, and two settings.
_PROC_FILES = frozenset(
    "cpuinfo diskstats loadavg meminfo slabinfo stat swaps uptime sys/kernel/ns_last_pid sys/crypto/fips_enabled".split()
)


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
        if self.kind in ("proc", "sysfs"):
            return self._open_ordinary_directory(root)
        links = not self.options.target_nofollow
        found = resolve.find(root, self.where, links=links)
        target = resolve.make_directory(root, self.where, links=links) if found is None else found
        refuse_proc_cover(target, self.where, self.kind)
        return target, found is not None

    def _open_ordinary_directory(self, root: int) -> tuple[int, bool]:
        """The kernel's own filesystems are trusted by path later: no link may lead them elsewhere (CVE-2019-19921)."""
        try:
            target = resolve.make_directory(root, self.where, links=False)
            refuse_proc_cover(target, self.where, self.kind)
            if stat.S_ISDIR(os.fstat(target).st_mode):
                return target, True
            number = errno.ENOTDIR
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            number = errno.ELOOP
        reason = f"{os.strerror(number)}; {self.kind} must be mounted on ordinary directory"
        raise OSError(number, reason, self.where)

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
            return filesystems.make(self.kind, self.source, flags, words, attributes, target)
        except PermissionError as error:
            if not self.host_place:
                raise
            return self._copy_host_place(error)

    def _copy_host_place(self, reason: OSError) -> int:
        """Return the host's mount instead; never with rights that the container would not have on its own."""
        try:
            tree = syscalls.open_tree(self.host_place, recursive=True)
        except OSError:
            raise reason from None
        quiet = self.options.add | (ATTR_RDONLY if self.kind == "sysfs" else 0)
        filesystems.change(tree, quiet, 0, recursive=True)
        return tree

    def _change_below(self, tree: int) -> None:
        options = self.options
        if options.add_all or options.drop_all:
            filesystems.change(tree, options.add_all, options.drop_all, recursive=True)


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
                filesystems.reconfigure(target, [*options.superblock, *options.data])
            if options.add or options.drop:
                filesystems.change(target, options.add, options.drop, recursive=False)
            if options.add_all or options.drop_all:
                filesystems.change(target, options.add_all, options.drop_all, recursive=True)
            self.propagate(target)
        finally:
            os.close(target)


def refuse_proc_cover(target: int, where: str, kind: str, source: int = -1) -> None:
    """Refuse a mount that would let the container fake procfs (CVE-2019-16884): EPERM.

    `/proc` itself takes procfs only; in it, only some files may be covered. `source` is the tree that would be bound there.
    """
    path = os.path.normpath("/" + where.lstrip("/"))
    if path == "/proc":
        procfs = kind == "proc" or (source >= 0 and filesystem_magic(source) == syscalls.PROC_MAGIC)
        if not procfs:
            raise OSError(errno.EPERM, "only proc may be mounted there", where)
        return
    may_cover = path.startswith("/proc/") and path[6:] in _PROC_FILES
    if not may_cover and filesystem_magic(target) == syscalls.PROC_MAGIC:
        raise OSError(errno.EPERM, "it is inside of proc, which must not be covered", where)
