# SPDX-License-Identifier: Apache-2.0
"""Binds: a file or directory of the host shown in the container."""

from __future__ import annotations

import os
import stat

from runtime.oci.rootfs import resolve, syscalls
from runtime.oci.rootfs.filesystems import change
from runtime.oci.rootfs.mountflags import Options
from runtime.oci.rootfs.mounts import Mount, refuse_proc_cover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Maps = tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]  # uidMappings, gidMappings


class Bind(Mount):
    """A copy of the mount at `source`; `tree` is one that the parent has opened already (idmapped or out of reach), or -1."""

    __slots__ = ("maps", "tree")

    def __init__(self, where: str, source: str, options: Options) -> None:
        super().__init__(where, "bind", source, options)
        self.tree = -1
        self.maps: Maps = (None, None)

    def title(self) -> str:
        """Return what it is, for people."""
        return f"bind {self.source} on {self.where}"

    def check_source(self) -> None:
        """Raise OSError if there is no source."""
        os.stat(self.source, follow_symlinks=not (self.options.source_nofollow or self.options.copy_symlink))

    def open_source(self) -> int:
        """Return a detached copy of the source."""
        options = self.options
        follow = not (options.source_nofollow or options.copy_symlink)
        return syscalls.open_tree(self.source, recursive=options.recursive, follow=follow)

    def attach(self, root: int) -> None:
        """Bind the source; the target is made where it is missing, a directory or a file as the source is."""
        if self.options.copy_symlink and os.path.islink(self.source):
            return self._copy_link(root)
        tree = self.open_source() if self.tree < 0 else self.tree
        try:
            target = self._open_target(root, stat.S_ISDIR(os.fstat(tree).st_mode))
            try:
                refuse_proc_cover(target, self.where, self.kind, tree)
                self._change(tree)
                syscalls.move_mount(tree, target)
                self.propagate(tree)
            finally:
                os.close(target)
        finally:
            os.close(tree)
            self.tree = -1
        return None

    def _open_target(self, root: int, directory: bool) -> int:
        if self.options.source_nofollow or self.options.target_nofollow:
            found = resolve.find_last(root, self.where)
            if found is not None:
                return found
        if directory:
            return resolve.make_directory(root, self.where)
        return resolve.make_file(root, self.where)

    def _change(self, tree: int) -> None:
        options = self.options
        if options.add or options.drop:
            change(tree, options.add, options.drop, recursive=False)
        if options.add_all or options.drop_all:
            change(tree, options.add_all, options.drop_all, recursive=True)

    def _copy_link(self, root: int) -> None:
        """Make the same link as the source instead of a mount; one that is there with the same text will do."""
        text = os.readlink(self.source)
        directory, name = resolve.make_parent(root, self.where)
        try:
            os.symlink(text, name, dir_fd=directory)
        except FileExistsError:
            if os.readlink(name, dir_fd=directory) != text:
                raise
        finally:
            os.close(directory)
