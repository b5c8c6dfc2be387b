# SPDX-License-Identifier: Apache-2.0
"""Idmapped binds: the files of a mount with other owners. Made by the parent, whose user namespace owns the filesystem."""

from __future__ import annotations

import os

from runtime.oci import files
from runtime.oci.failure import Failure
from runtime.oci.rootfs import syscalls
from runtime.oci.rootfs.binds import Bind
from runtime.oci.rootfs.syscalls import ATTR_IDMAP
from runtime.oci.syscalls import CLONE_NEWUSER, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Range = tuple[int, int, int]  # first id on the filesystem, first id shown on the host, how many
    Maps = tuple[tuple[Range, ...], tuple[Range, ...]]  # of users and of groups


def ranges(entries: list[dict[str, Any]]) -> tuple[Range, ...]:
    """Return uidMappings or gidMappings as tuples."""
    return tuple((entry["containerID"], entry["hostID"], entry["size"]) for entry in entries)


def parse(text: str, container: Maps) -> Maps:
    """Return the maps of `uids=0-1000-1#...;gids=...`; with an `@` both ids are the container's. Raises `Failure`."""
    found: dict[str, tuple[Range, ...]] = {"uids": (), "gids": ()}
    for part in filter(None, text.split(";")):
        key, _, value = part.partition("=")
        if key not in found:
            raise Failure(f"mount option idmap: unknown key {key!r}", "give uids=...;gids=...")
        found[key] = tuple(_parse_range(item, container[key == "gids"]) for item in value.split("#"))
    return found["uids"], found["gids"]


def _parse_range(text: str, container: tuple[Range, ...]) -> Range:
    try:
        first, second, size = (int(number) for number in text.lstrip("@").split("-"))
    except ValueError:
        raise Failure(f"mount option idmap: {text!r} is not FIRST-SECOND-SIZE") from None
    if text.startswith("@"):
        second += _offset(first, container)
    return first, second, size


def _offset(number: int, container: tuple[Range, ...]) -> int:
    """Return by how much the container's id is another one on the host."""
    for inside, outside, count in container:
        if inside <= number < inside + count:
            return outside - inside
    raise Failure(f"mount option idmap: the container has no id {number}")


def open_mapped(bind: Bind, namespace: int) -> int:
    """Return a detached copy of the bind's source, with the ids of a user namespace. Raises `OSError`."""
    tree = bind.open_source()
    try:
        recursive = bind.options.recursive_idmap
        syscalls.mount_setattr(tree, add=ATTR_IDMAP, users=namespace, recursive=recursive)
    except BaseException:
        os.close(tree)
        raise
    return tree


def make_namespace(maps: Maps) -> int:
    """Return a descriptor of a new user namespace that has these maps and no process."""
    ready, release = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            unshare(CLONE_NEWUSER)
            os.close(release[1])
            os.write(ready[1], b"1")
            os.read(release[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    os.close(release[0])
    try:
        if not os.read(ready[0], 1):
            raise OSError(1, "a user namespace cannot be made")
        for name, table in zip(("uid_map", "gid_map"), maps, strict=True):
            files.write(f"/proc/{pid}/{name}", "".join(f"{a} {b} {size}\n" for a, b, size in table))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready[0])
        os.close(release[1])
        os.waitpid(pid, 0)
