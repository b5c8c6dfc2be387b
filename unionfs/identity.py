# SPDX-License-Identifier: Apache-2.0
"""Which file of which branch filesystem something is: one number, as there is one for each node that the kernel knows."""

import os

Identity = int  # inode number << 32 | device number, which Linux keeps in 32 bits


def identity_of(status: os.stat_result) -> Identity:
    """Return the identity of what was looked at."""
    return status.st_ino << 32 | status.st_dev


def device_of(identity: Identity) -> int:
    """Return st_dev of a file."""
    return identity & 0xFFFFFFFF


def inode_of(identity: Identity) -> int:
    """Return st_ino of a file."""
    return identity >> 32
