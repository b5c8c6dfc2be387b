# SPDX-License-Identifier: Apache-2.0
"""Who has files or directories of a mount open, which the kernel tells neither umount(2) nor every session: procfs knows.

Nothing here looks at the mount itself, which waits for us.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from unionfs.kernel import mount_table


def open_inodes(device: str) -> Iterator[tuple[int, int]]:
    """Yield (pid, inode number) of all that is open on the filesystem with a device number, "major:minor".

    Processes that may not be looked at, or that end meanwhile, are left out.
    """
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            # Not by namespace: the kernel tells that of a process only when its execve(2) is over, which may wait for us.
            ids = {mount.id for mount in mount_table.read(int(name)) if mount.device == device}
            for fd in os.listdir(f"/proc/{name}/fdinfo") if ids else ():
                fields = _fields(f"/proc/{name}/fdinfo/{fd}")
                if fields.get("mnt_id", -1) in ids:
                    yield int(name), fields.get("ino", 0)
        except OSError:
            continue


def holder_of(mount: mount_table.Mount) -> int | None:
    """Return the pid of a process that keeps a mount busy, or None if there is none that we may look at."""
    inside = mount.target.rstrip("/") + "/"
    for name in os.listdir("/proc"):
        if name.isdigit() and _holds(name, mount, inside):
            return int(name)
    return None


def _holds(pid: str, mount: mount_table.Mount, inside: str) -> bool:
    """Tell whether a process has its directory, its root, a descriptor or a mapping on a mount."""
    try:
        ids = {seen.id for seen in mount_table.read(int(pid)) if seen.device == mount.device}
        if not ids:
            return False
        if any(f"{os.readlink(f'/proc/{pid}/{place}')}/".startswith(inside) for place in ("cwd", "root")):
            return True
        fds = os.listdir(f"/proc/{pid}/fdinfo")
        if any(_fields(f"/proc/{pid}/fdinfo/{fd}").get("mnt_id", -1) in ids for fd in fds):
            return True
        with open(f"/proc/{pid}/maps", "rb") as maps:
            device = "{:02x}:{:02x}".format(*map(int, mount.device.split(":"))).encode()
            return any(line.split(maxsplit=4)[3] == device for line in maps)
    except OSError:  # not ours to see, or it has ended
        return False


def _fields(path: str) -> dict[str, int]:
    try:
        with open(path, encoding="ascii", errors="replace") as lines:
            words = [line.split() for line in lines]
    except OSError:
        return {}
    return {row[0][:-1]: int(row[1]) for row in words if row and row[0] in ("mnt_id:", "ino:")}
