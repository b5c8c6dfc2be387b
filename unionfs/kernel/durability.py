# SPDX-License-Identifier: Apache-2.0
"""How a copy's data is brought to the disk before its name may be: after a crash a name must not stand for less than before.

Owns the choice by filesystem. It promises an order and not that the name is on the disk: that is what fsync is for.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from unionfs.kernel import syscalls

WriteBack = Callable[[int], None]


def write_back_before_name(directory: int) -> WriteBack:
    """Return what is to be done with the descriptor of a new file in that filesystem before the file gets a name.

    That is fdatasync, but on ext4 with a journal of its own it is enough to write the data and wait: fdatasync does the same
    and then has the journal's transaction committed, and the device's cache flushed. The name belongs to that transaction or
    a later one. They reach the disk in their order, and the device's cache is flushed before each is valid. Other filesystems
    may have finished writing before the file knows (btrfs), or have no order at all.
    """
    return syscalls.write_back if _has_ext4_journal(directory) else os.fdatasync


def _has_ext4_journal(directory: int) -> bool:
    """Tell whether the filesystem is ext4 with its journal on the same device; False also where that is not shown."""
    if syscalls.filesystem_magic(directory) != syscalls.EXT4_MAGIC:
        return False
    device = os.fstat(directory).st_dev
    try:
        name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
    except OSError:
        return False
    return os.path.isdir(f"/proc/fs/jbd2/{name}-8")  # 8 is the number of ext4's own journal file
