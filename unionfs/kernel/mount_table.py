# SPDX-License-Identifier: Apache-2.0
"""The kernel's table of mounts, read from mountinfo; never by a look at a mount, which may hang or be dead."""

import os
import re
from dataclasses import dataclass

from unionfs.kernel.paths import absolute

TYPES = ("fuse.unionfs", "fuse.unionfs-overlay", "fuse")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo; `device` is "major:minor" as the kernel prints it, `user` whose a FUSE mount is (else root's)."""

    id: int
    device: str
    target: str
    flags: tuple[str, ...]
    fstype: str
    source: str
    user: int = 0

    @property
    def is_union(self) -> bool:
        """Tell whether the type says that this project mounted it."""
        return self.fstype in TYPES


def read(pid: int | str = "self") -> list[Mount]:
    """Return the mounts that process `pid` sees, oldest first."""
    # A carriage return in a name is not escaped by the kernel, and ends no line.
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as table:
        return [_parse(line) for line in table]


def _parse(line: str) -> Mount:
    fields = line.rstrip("\n").split(" ")
    rest = fields[fields.index("-", 6) + 1 :]
    return Mount(
        id=int(fields[0]),
        device=fields[2],
        target=decode(fields[4]),
        flags=tuple(fields[5].split(",")),
        fstype=rest[0],
        source=decode(rest[1]),
        user=_user(rest[2]) if rest[0].startswith("fuse") else 0,
    )


def _user(options: str) -> int:
    # Unlike the source it cannot be made up: fusermount3 writes it, and the kernel prints it.
    match = re.search(r"(?:\A|,)user_id=([0-9]+)", options)
    return int(match[1]) if match else 0


def decode(text: str) -> str:
    """Return a text in which the kernel, or we, wrote space, control characters and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def canonical(path: str) -> str:
    """Return `path` absolute with the links of its parent resolved, without touching the last part itself."""
    path = absolute(path)
    head, tail = os.path.split(path)
    if tail == "..":
        return os.path.realpath(path)
    if not tail or any(mount.target == path for mount in read()):
        return path
    head = os.path.realpath(head)
    path = os.path.join(head, tail)
    try:
        is_link = os.path.islink(path)  # lstat of a dead mount fails and is no link
    except OSError:
        is_link = False
    return os.path.realpath(path) if is_link else path


def find(target: str) -> Mount | None:
    """Return the topmost mount exactly at `target`, or None."""
    path = canonical(target)
    found = None
    for mount in read():
        if mount.target == path:
            found = mount
    return found


def containing(path: str) -> Mount | None:
    """Return the mount that `path` (absolute, without links) lies on."""
    found = None
    for mount in read():
        inside = path == mount.target or path.startswith(mount.target.rstrip("/") + "/")
        if inside and (found is None or len(mount.target) >= len(found.target)):
            found = mount
    return found
