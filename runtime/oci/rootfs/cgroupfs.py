# SPDX-License-Identifier: Apache-2.0
"""The mount of type `cgroup`: the container's own groups, as its own cgroup namespace roots them or bound from the host.

v2 is one mount. v1 is a tmpfs with a directory for each hierarchy and a link for each controller that shares one; in the
hybrid layout v2 is one of these directories.
"""

from __future__ import annotations

import errno
import os

from runtime.oci import files
from runtime.oci.cgroups import layout
from runtime.oci.rootfs import mountinfo, resolve, syscalls
from runtime.oci.rootfs.filesystems import change, new_filesystem
from runtime.oci.rootfs.mountflags import Options
from runtime.oci.rootfs.mounts import Mount
from runtime.oci.rootfs.syscalls import ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_QUIET = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC


class Hierarchy:
    """One hierarchy of the host: where it is mounted and the words that choose it (none for v2)."""

    __slots__ = ("path", "words")

    def __init__(self, path: str, words: list[str]) -> None:
        self.path = path
        self.words = words

    @property
    def kind(self) -> str:
        """Return the filesystem's type."""
        return "cgroup" if self.words else "cgroup2"


def hierarchies(found: layout.Layout) -> list[Hierarchy]:
    """Return each hierarchy once, v1 first."""
    words: dict[str, list[str]] = {}
    for word, path in found.v1.items():
        words.setdefault(path, []).append(word)
    result = [Hierarchy(path, together) for path, together in words.items()]
    return [*result, Hierarchy(found.v2, [])] if found.v2 else result


class Cgroup(Mount):
    """The cgroup mount of the config."""

    __slots__ = ("own_namespace",)

    def __init__(self, where: str, options: Options, *, own_namespace: bool) -> None:
        super().__init__(where, "cgroup", "cgroup", options)
        self.own_namespace = own_namespace

    def attach(self, root: int) -> None:
        """Mount what the host has."""
        found = layout.detect()
        target = resolve.make_directory(root, self.where)
        try:
            tree = self._attach_v2(found, target) if found.unified else self._attach_all(found, target)
            self.propagate(tree)
            os.close(tree)
        finally:
            os.close(target)

    def _attach_v2(self, found: layout.Layout, target: int) -> int:
        tree = self._open(Hierarchy(found.v2, []), self.options.data)
        syscalls.move_mount(tree, target)
        return tree

    def _attach_all(self, found: layout.Layout, target: int) -> int:
        top = new_filesystem("tmpfs", "tmpfs", ["mode=755"], self.options.add & ~ATTR_RDONLY)
        syscalls.move_mount(top, target)
        for hierarchy in hierarchies(found):
            name = os.path.basename(hierarchy.path)
            place = _make_place(top, name)
            try:
                tree = self._open(hierarchy)
                try:
                    syscalls.move_mount(tree, place)
                finally:
                    os.close(tree)
            finally:
                os.close(place)
            for word in hierarchy.words if len(hierarchy.words) > 1 else ():
                if word != name and not word.startswith("name="):
                    os.symlink(name, word, dir_fd=top)
        if self.options.add & ATTR_RDONLY:
            self.sealed = os.dup(top)
        return top

    def _open(self, hierarchy: Hierarchy, data: Sequence[str] = ()) -> int:
        """Return a detached mount of the container's group in one hierarchy, with `data` as the kernel's options."""
        attributes = self.options.add | _QUIET
        if self.own_namespace:
            try:
                return new_filesystem(hierarchy.kind, "cgroup", [*hierarchy.words, *data], attributes)
            except OSError as error:
                if data and error.errno == errno.EINVAL:  # an option that there is not
                    raise
                # EPERM, EBUSY: a namespace that does not own it, or a hierarchy that is going away
        tree = syscalls.open_tree(_own_group(hierarchy))
        change(tree, attributes, 0, recursive=False)
        return tree


def _make_place(top: int, name: str) -> int:
    """Return a directory of the new tmpfs. Two hierarchies may have one name; the second then covers the first."""
    try:
        os.mkdir(name, 0o755, dir_fd=top)
    except FileExistsError:
        pass
    return os.open(name, _PLACE, dir_fd=top)


def _own_group(hierarchy: Hierarchy) -> str:
    """Return the directory on the host of the group that this process is in."""
    group = "/"
    for line in files.lines("/proc/self/cgroup"):
        _number, words, path = line.split(":", 2)
        if sorted(filter(None, words.split(","))) == sorted(hierarchy.words):
            group = path
    for mount in mountinfo.read():
        # Inside of another container the host's mount starts at that container's group.
        top = mount.root.rstrip("/")
        if mount.path == hierarchy.path and (group + "/").startswith(top + "/"):
            group = group[len(top) :]
            break
    return hierarchy.path + group.rstrip("/")
