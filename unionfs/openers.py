# SPDX-License-Identifier: Apache-2.0
"""Who has directories of a mount open, for a session to which the kernel does not tell that: procfs knows.

Nothing here looks at the mount itself, which waits for us.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from unionfs import mount_table


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


def _fields(path: str) -> dict[str, int]:
    try:
        with open(path, encoding="ascii", errors="replace") as lines:
            words = [line.split() for line in lines]
    except OSError:
        return {}
    return {row[0][:-1]: int(row[1]) for row in words if row and row[0] in ("mnt_id:", "ino:")}
